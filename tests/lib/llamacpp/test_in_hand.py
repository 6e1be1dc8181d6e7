import pytest

from neuron_lib.engine.protocol import (
    Beat,
    Broken,
    Cancel,
    Cancelled,
    Command,
    Delta,
    Done,
    Prepare,
    Prepared,
    Refused,
    Report,
    Start,
    StepEvents,
)
from neuron_lib.llamacpp.in_hand import InHand
from neuron_lib.types import FinishReason, Grammar, Sampling


def prepare(request: int, *, grammar: Grammar | None = None) -> Prepare:
    return Prepare(request=request, messages=(), grammar=grammar)


def bound(request: int) -> Prepare:
    return prepare(request, grammar=Grammar("regex", "x"))


def start(request: int, *, choices: int = 1) -> Start:
    return Start(request=request, sampling=Sampling(temperature=0, seed=0), max_tokens=1, choices=choices)


def done(request: int, *, choice: int = 0) -> StepEvents:
    event = Done(
        request=request,
        choice=choice,
        reason=FinishReason.STOP,
        text="",
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=1,
        prefill_s=0.0,
        decode_s=0.0,
    )
    return StepEvents(1, (event,))


def prepared(request: int) -> Prepared:
    return Prepared(request=request, prompt_tokens=1, prompt_end="")


REFUSED = Refused(request=1, code="x", message="x")
DELTA = StepEvents(1, (Delta(1, "x", 1),))
BROKEN = StepEvents(1, (Broken(request=1, message="x"),))


@pytest.mark.parametrize(
    ("history", "in_hand"),
    [
        ([], set()),
        ([prepare(1), prepare(2)], {1}),
        ([prepare(1), prepare(2), prepared(1)], {2}),
        ([prepare(1), prepare(2), REFUSED], {2}),
        ([prepare(1), prepared(1), start(1), prepare(2), prepare(3)], {1, 2}),
        ([start(1), start(2), DELTA, Beat(step=1, in_flight=2, rss_bytes=1)], {1, 2}),
        ([start(1), start(2), done(1)], {2}),
        ([start(1), start(2), BROKEN], {2}),
        ([start(1), start(2), Cancel(1)], {1, 2}),
        ([start(1), start(2), Cancel(1), DELTA, Beat(step=1, in_flight=0, rss_bytes=1)], {1, 2}),
        ([start(1), start(2), Cancel(1), Cancelled(1)], {2}),
        ([start(1, choices=2), done(1, choice=1)], {1}),
        ([start(1, choices=2), done(1, choice=1), done(1)], set()),
        ([start(1), Cancel(1), done(1)], set()),
        ([start(1), Cancel(1), done(1), Cancelled(1)], set()),
    ],
)
def test_in_hand_is_what_was_started_and_has_not_ended_and_the_oldest_that_is_not_prepared(
    history: list[Command | Report], in_hand: set[int]
) -> None:
    assert requests_after(history) == in_hand


def test_a_prompt_that_nobody_waits_for_any_more_is_read_all_the_same() -> None:
    assert requests_after([prepare(1), prepare(2), Cancel(1)]) == {1}


def test_while_a_grammar_is_compiled_the_next_prompt_is_read() -> None:
    assert requests_after([bound(1), bound(2), prepare(3), prepare(4)]) == {1, 3}


def test_a_grammar_that_nobody_waits_for_any_more_is_compiled_until_the_engine_says_otherwise() -> None:
    assert requests_after([bound(1), prepare(2), prepare(3), Cancel(1)]) == {1, 2}
    assert requests_after([bound(1), prepare(2), prepare(3), Cancel(1), Cancelled(1)]) == {2}


def test_known_is_also_what_stands_in_line() -> None:
    in_hand = InHand()
    for request in (1, 2):
        in_hand.tell(prepare(request))
    assert (in_hand.knows(2), in_hand.knows(3)) == (True, False)
    in_hand.hear(prepared(2))
    assert not in_hand.knows(2)


def requests_after(history: list[Command | Report]) -> frozenset[int]:
    in_hand = InHand()
    for entry in history:
        if isinstance(entry, Prepare | Start | Cancel):
            in_hand.tell(entry)
        else:
            assert isinstance(entry, Report)
            in_hand.hear(entry)
    return in_hand.requests
