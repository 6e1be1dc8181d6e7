import struct
from collections.abc import Sequence as Items

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.line import Request
from neuron_lib.engine.protocol import Broken, RequestClass, SequenceEvent, Vector
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import Outcome, StepPlan, StepResult
from neuron_lib.engine.vector_scheduler import VectorScheduler


class VectorEngine:
    """A scheduler, and a model whose vector of a text says how long the text is and what its first token is."""

    def __init__(self, *, seats: int = 4, texts: int = 4, n_batch: int = 64) -> None:
        self.scheduler = VectorScheduler(seats=seats, texts=texts, n_batch=n_batch)
        self.plans: list[StepPlan] = []
        self.events: list[SequenceEvent] = []
        self.now_s = 0.0

    def submit(self, request: int, *lengths: int, adapter: str = "") -> None:
        texts = tuple(
            Sequence(request=request, choice=choice, prompt=[choice] * length, max_tokens=0)
            for choice, length in enumerate(lengths)
        )
        class_ = RequestClass(adapter=adapter)
        self.scheduler.submit(Request(request, texts, class_=class_, arrived_s=self.now_s))

    def step(self, outcome: Outcome = Outcome.COMPUTED) -> list[SequenceEvent]:
        plan = self.scheduler.plan(self.now_s)
        assert plan is not None
        self.plans.append(plan)
        assert [chunk.seq_id for chunk in plan.chunks] == [*range(len(plan.chunks))]
        is_computed = outcome is Outcome.COMPUTED
        vectors = tuple(struct.pack("<2f", len(chunk.tokens), chunk.tokens[0]) for chunk in plan.chunks)
        result = StepResult((), 0.5, outcome, "no luck", vectors=vectors if is_computed else ())
        events = self.scheduler.apply(plan, result)
        self.events += events
        return events

    def finish(self, *, most_steps: int = 1000) -> None:
        for _ in range(most_steps):
            if self.scheduler.is_idle:
                return
            self.step()
        raise AssertionError("still not finished")

    @property
    def texts(self) -> list[list[tuple[int, int]]]:
        """For each step the request and the number of each text."""
        return [[(chunk.sequence.request, chunk.sequence.choice) for chunk in plan.chunks] for plan in self.plans]

    def lengths(self, request: int) -> list[float]:
        """What the vectors of a request say, in the order of its texts."""
        found = {event.choice: event for event in self.events if isinstance(event, Vector) and event.request == request}
        told = [struct.unpack("<2f", found[choice].values) for choice in range(len(found))]
        assert [first for _, first in told] == [*range(len(told))]
        return [length for length, _ in told]


def test_the_texts_of_a_step_are_as_many_as_may_be_and_fit_the_batch() -> None:
    engine = VectorEngine(seats=1, texts=3, n_batch=64)
    engine.submit(1, 10, 10, 10, 10, 60, 10, 64)
    engine.finish()
    assert engine.texts == [[(1, 0), (1, 1), (1, 2)], [(1, 3)], [(1, 4)], [(1, 5)], [(1, 6)]]
    assert engine.lengths(1) == [10, 10, 10, 10, 60, 10, 64]


def test_a_request_has_its_turn_after_one_text_of_each_other_however_many_they_have() -> None:
    engine = VectorEngine(seats=2, n_batch=64)
    engine.submit(1, *[60] * 10)
    engine.step()
    engine.submit(2, 60)
    engine.step()
    engine.step()
    assert engine.texts == [[(1, 0)], [(1, 1)], [(2, 0)]]
    engine.submit(3, 1)
    engine.step()
    assert engine.texts[-1] == [(1, 2), (3, 0)]


def test_more_requests_than_seats_wait_in_the_line_in_order() -> None:
    engine = VectorEngine(seats=2, texts=2)
    engine.now_s = 1.0
    for request in (3, 1, 2):
        engine.submit(request, 10, 10)
    engine.now_s = 3.0
    engine.step()
    assert [request.number for request in engine.plans[0].began] == [1, 2]
    assert engine.texts == [[(1, 0), (2, 0)]]
    engine.now_s = 4.0
    engine.finish()
    assert engine.texts[1:] == [[(1, 1), (2, 1)], [(3, 0), (3, 1)]]
    waited = {event.request: event.queue_s for event in engine.events if isinstance(event, Vector)}
    assert waited == {1: 2.0, 2: 2.0, 3: 3.0}


def test_a_vector_says_how_long_the_texts_of_its_request_were_computed_until_then() -> None:
    engine = VectorEngine(seats=2, n_batch=64)
    engine.submit(1, 60, 60)
    engine.submit(2, 60)
    engine.finish()  # each step takes half a second
    assert engine.texts == [[(1, 0)], [(2, 0)], [(1, 1)]]
    spent = [(event.request, event.prefill_s) for event in engine.events if isinstance(event, Vector)]
    assert spent == [(1, 0.5), (2, 0.5), (1, 1.0)]


def test_a_request_with_another_adapter_waits_until_nobody_runs() -> None:
    engine = VectorEngine()
    engine.submit(1, 10)
    engine.submit(2, 10, adapter="pirate")
    engine.submit(3, 10)
    engine.finish()
    assert engine.texts == [[(1, 0)], [(2, 0)], [(3, 0)]]


def test_a_request_is_dropped_wherever_it_is() -> None:
    engine = VectorEngine(seats=1, texts=1)
    for request in (1, 2, 3):
        engine.submit(request, 10, 10)
    engine.step()
    for number in (1, 2, 7):
        engine.scheduler.cancel(number)
    assert engine.scheduler.in_flight == 2
    engine.finish()
    assert engine.texts == [[(1, 0)], [(3, 0)], [(3, 1)]]


def test_nobody_means_nothing_to_compute() -> None:
    engine = VectorEngine()
    assert engine.scheduler.plan(0.0) is None
    engine.submit(1, 10, 10)
    assert (engine.scheduler.is_idle, engine.scheduler.in_flight) == (False, 2)
    engine.finish()
    assert (engine.scheduler.is_idle, engine.scheduler.in_flight) == (True, 0)


@pytest.mark.parametrize("length", [0, 65])
def test_a_text_that_no_batch_holds_can_never_become_a_vector(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} tokens does not fit a batch of 64"):
        VectorEngine(n_batch=64).submit(1, 10, length)


def test_a_batch_without_cells_is_tried_with_fewer_texts_and_a_single_text_breaks_its_request() -> None:
    engine = VectorEngine(seats=4)
    engine.submit(1, *[10] * 8)
    engine.submit(2, 10)
    assert engine.step(Outcome.NO_CELLS) == []
    assert engine.step(Outcome.NO_CELLS) == []
    (broken,) = engine.step(Outcome.NO_CELLS)
    assert (broken, engine.scheduler.in_flight) == (Broken(request=1, message="no luck"), 1)
    engine.finish()
    assert [len(texts) for texts in engine.texts] == [4, 2, 1, 1]
    assert engine.lengths(2) == [10]


def test_after_fewer_texts_a_step_has_more_again() -> None:
    engine = VectorEngine(seats=4, n_batch=64)
    engine.submit(1, *[10] * 12)
    engine.step(Outcome.NO_CELLS)
    engine.finish()
    assert [len(texts) for texts in engine.texts] == [4, 2, 4, 4, 2]


def test_a_batch_that_fails_breaks_the_requests_in_it_and_no_other() -> None:
    engine = VectorEngine(seats=2)
    for request in (1, 2, 3):
        engine.submit(request, 10, 10, 10)
    assert engine.step(Outcome.FAILED) == [Broken(request=number, message="no luck") for number in (1, 2)]
    engine.finish()
    assert engine.lengths(3) == [10, 10, 10]


@given(
    st.lists(st.lists(st.integers(1, 32), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(32, 70),
)
def test_every_text_gets_its_vector_once_and_who_is_left_out_comes_first(
    requests: Items[Items[int]], seats: int, texts_at_once: int, n_batch: int
) -> None:
    engine = VectorEngine(seats=seats, texts=texts_at_once, n_batch=n_batch)
    for number, lengths in enumerate(requests):
        engine.submit(number, *lengths)
    engine.finish()
    for number, lengths in enumerate(requests):
        assert engine.lengths(number) == [*lengths]
    last: dict[int, float] = {}  # the step in which a request had its last turn; newcomers come after these
    for step, (plan, texts) in enumerate(zip(engine.plans, engine.texts, strict=True)):
        assert len(texts) <= texts_at_once
        assert len({number for number, _ in texts}) <= seats
        assert plan.token_count <= n_batch
        assert len(set(texts)) == len(texts)
        last |= {request.number: step - 0.5 for request in plan.began}
        left = {
            number for number in last if any((number, i) in later for later in engine.texts[step:] for i in range(12))
        }
        assert texts[0][0] in {number for number in left if last[number] == min(last[other] for other in left)}
        last |= {number: step for number, _ in texts}
