"""What the next step computes, told request by request. Any order of everything is in `test_scheduler_machine`."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from neuron_lib.engine.protocol import Broken, Delta, Done
from neuron_lib.engine.speculation import MAX_DRAFT
from neuron_lib.engine.step import Breach, Copy, Restore, Save, StepPlan, Swap, Truncate
from neuron_lib.types import FinishReason
from tests.fakes.model_memory import EOG
from tests.fakes.small_engine import SmallEngine, shares


def text(length: int, *, seed: int = 1) -> list[int]:
    """A prompt that has nothing in common with one of another seed."""
    return [seed, *((seed * i + i * i) % 11 for i in range(1, length))]


def test_nothing_to_do_is_no_plan() -> None:
    assert SmallEngine().scheduler.plan(0.0) is None


def test_more_seats_than_a_batch_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="9 seats"):
        SmallEngine(seats=9, n_batch=8)


@pytest.mark.parametrize("length", [0, 513])
def test_a_prompt_that_can_never_run_is_refused(length: int) -> None:
    engine = SmallEngine(n_ctx=512)
    with pytest.raises(ValueError, match="does not fit"):
        engine.submit(1, [1] * length)
    assert engine.scheduler.in_flight == 0


def test_a_prompt_that_fills_the_context_is_read_and_gets_a_token() -> None:
    engine = SmallEngine(n_ctx=100)
    assert engine.answer(1, text(100)).completion_tokens == 1


# ------------------------------------------------------------------------------------------------------- mixed steps


def test_the_whole_batch_reads_prompts_while_nobody_decodes_oldest_first() -> None:
    engine = SmallEngine(n_batch=64)
    for request in (1, 2, 3):
        engine.submit(request, text(40, seed=request))
    assert shares(engine.plan()) == {1: 40, 2: 24}


def test_only_the_chunk_that_ends_a_prompt_wants_logits() -> None:
    engine = SmallEngine(n_batch=64)
    engine.submit(1, text(100))
    for _ in range(3):
        engine.step()
    chunks = [plan.chunks[0] for plan in engine.plans]
    assert [(c.position, len(c.tokens), c.wants_logits) for c in chunks] == [
        (0, 64, False),
        (64, 36, True),
        (100, 1, True),
    ]


def test_beside_a_running_reply_a_prompt_of_unknown_speed_gets_the_smallest_chunk() -> None:
    engine = SmallEngine()
    engine.submit(1, [1])
    engine.step()
    engine.submit(2, text(60))
    assert shares(engine.plan()) == {1: 1, 2: 16}


@pytest.mark.parametrize(
    ("target_step_s", "chunk"),
    # A decode step takes 11 ms; the prompt of 40 tokens took 50, which makes 1.25 ms a token.
    [(0.036, 21), (0.061, 41), (0.005, 17), (10.0, 63)],
)
def test_beside_a_running_reply_prompts_are_read_for_the_rest_of_the_target_time(
    target_step_s: float, chunk: int
) -> None:
    engine = SmallEngine(n_batch=64, target_step_s=target_step_s + 1e-9)
    engine.submit(1, text(40))
    for _ in range(5):
        engine.step()
    engine.submit(2, text(500, seed=2))
    assert shares(engine.plan()) == {1: 1, 2: chunk}


@pytest.mark.parametrize(("first", "shares_of"), [(26, {1: 1, 2: 26}), (25, {1: 1, 2: 25, 3: 16})])
def test_what_is_left_of_a_step_beside_replies_goes_to_the_next_prompt_unless_it_is_too_little(
    first: int, shares_of: dict[int, int]
) -> None:
    engine = SmallEngine(n_batch=64, target_step_s=0.061 + 1e-9)  # 41 tokens, as above
    engine.submit(1, text(40))
    for _ in range(5):
        engine.step()
    engine.submit(2, text(first, seed=2))
    engine.submit(3, text(500, seed=3))
    assert shares(engine.plan()) == shares_of


def test_a_running_reply_is_in_every_step_while_another_prompt_is_read() -> None:
    engine = SmallEngine()
    engine.submit(1, text(4), max_tokens=100)
    engine.step()
    engine.submit(2, text(300, seed=2))
    told = [engine.step() for _ in range(10)]
    assert all(any(isinstance(event, Delta) and event.request == 1 for event in events) for events in told)


def test_times_are_split_between_reading_and_writing() -> None:
    engine = SmallEngine(n_batch=64)
    engine.submit(1, text(100), max_tokens=3)
    while engine.scheduler.in_flight:
        plan = engine.plan()
        engine.events += engine.scheduler.apply(plan, replace(engine.memory.run(plan), duration_s=0.5))
    done = engine.done(1)
    assert (done.prefill_s, done.decode_s, done.reason) == (1.0, 1.0, FinishReason.LENGTH)


# ------------------------------------------------------------------------------------------------- seats and prompts


def test_who_waits_for_a_slot_gets_the_first_that_is_vacated() -> None:
    engine = SmallEngine(seats=1)
    engine.submit(1, text(20), max_tokens=1)
    engine.submit(2, text(20, seed=2))
    assert [type(event) for event in engine.step()] == [Done]
    plan = engine.plan()
    assert (plan.edits, shares(plan)) == ((Truncate(0, 0),), {2: 20})


def test_a_second_turn_reads_only_what_is_new() -> None:
    engine = SmallEngine()
    first = engine.submit(1, text(100))
    engine.finish()
    before = engine.computed
    done = engine.answer(2, [*first.tokens, 7, 7, 7], max_tokens=5)
    # The last token of the reply was never fed back, so it is as new as the three behind it.
    assert done.cached_tokens == len(first.tokens) - 1
    assert engine.computed - before == 4 + 4
    assert engine.is_alone(2)


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    engine = SmallEngine()
    engine.answer(1, text(100), max_tokens=1)
    assert engine.answer(2, text(100), max_tokens=1).cached_tokens == 99


def test_requests_that_come_together_read_their_common_beginning_once() -> None:
    engine = SmallEngine(seats=8, n_batch=64)
    beginning = text(200)
    for request in range(8):
        engine.submit(request, [*beginning, request, request], max_tokens=1)
    engine.finish()
    assert engine.computed == 200 + 8 * 2
    assert [engine.done(request).cached_tokens for request in range(8)] == [0] + [200] * 7
    assert all(engine.is_alone(request) for request in range(8))


@pytest.mark.parametrize(("pool", "can_truncate"), [(None, True), (300, True), (300, False), (None, False)])
def test_choices_share_their_prompt(pool: int | None, can_truncate: bool) -> None:  # noqa: FBT001 - a parameter
    engine = SmallEngine(pool=pool, can_truncate=can_truncate, n_batch=64, n_ctx=300)
    engine.submit(1, text(100), max_tokens=1, choices=3, checkpoint_at=() if can_truncate else (99,))
    engine.finish()
    assert engine.computed == 100 + 2
    assert [engine.done(1, choice=choice).cached_tokens for choice in range(3)] == [0, 99, 99]
    assert engine.is_alone(1)


def test_a_prompt_that_waits_for_another_is_read_when_the_other_is_cancelled() -> None:
    engine = SmallEngine(n_batch=32)
    beginning = text(120)
    engine.submit(1, [*beginning, 1])
    engine.submit(2, [*beginning, 2])
    assert shares(engine.plan()) == {1: 32}
    engine.run(engine.plans[0])
    engine.scheduler.cancel(1)
    engine.finish()
    assert engine.told(1) == []
    assert engine.done(2).cached_tokens == 32  # what the other had come to
    assert engine.computed == 121 + 9
    assert engine.is_alone(2)


def test_who_waits_for_a_prefix_lets_others_pass() -> None:
    engine = SmallEngine(n_batch=64)
    for request, prompt in enumerate([[*text(100), 1], [*text(100), 2, 2], text(300, seed=2)]):
        engine.submit(request, prompt)
    engine.step()
    assert shares(engine.plan()) == {0: 37, 2: 27}
    engine.run(engine.plans[-1])
    assert shares(engine.plan()) == {0: 1, 1: 2, 2: 61}  # but it is still the older one, so it is served first
    engine.run(engine.plans[-1], fault="no cells")
    assert shares(engine.plan()).keys() == {0, 1}  # and leaves last


def test_without_a_prompt_cache_nothing_is_reused_and_no_cell_stays() -> None:
    engine = SmallEngine(is_enabled=False, host_budget_bytes=1000)
    engine.submit(1, text(100), choices=2, max_tokens=1)
    engine.finish()
    assert engine.done(1, choice=1).cached_tokens == 0
    assert engine.answer(2, text(100), max_tokens=1).cached_tokens == 0
    assert engine.computed == 3 * 100
    assert [engine.cells.length(seq_id) for seq_id in range(4)] == [0] * 4
    assert not engine.memory.kept


# -------------------------------------------------------------------------------------------- when cells are scarce


def crowded() -> SmallEngine:
    """Two replies in a pool that has not enough cells for both of them."""
    engine = SmallEngine(seats=2, pool=256, n_ctx=250, n_batch=64, host_budget_bytes=10_000)
    engine.submit(1, text(60), max_tokens=150)
    engine.submit(2, text(60, seed=2), max_tokens=150)
    return engine


def test_when_cells_run_out_the_youngest_leaves_and_resumes_and_nobody_notices() -> None:
    engine = crowded()
    engine.finish()
    present = [tuple(sorted(shares(plan))) for plan in engine.plans]
    together, first, second = (present.index(who) for who in ((1, 2), (1,), (2,)))
    assert present == [(1, 2)] * first + [(1,)] * (second - first) + [(2,)] * (len(present) - second)
    assert together < first < second
    assert engine.is_alone(1)
    assert engine.is_alone(2)
    assert [name for name in engine.told(2) if name != "Delta"] == ["Done"]


def test_what_the_youngest_had_computed_comes_back_from_host_memory_and_was_not_cached() -> None:
    engine = crowded()
    engine.finish()
    edits = [edit for plan in engine.plans for edit in plan.edits]
    assert [type(edit) for edit in edits if isinstance(edit, Save | Restore)] == [Save, Save, Restore]
    assert engine.done(2).cached_tokens == 0
    assert engine.computed == 2 * (60 + 149)


def test_without_host_memory_it_is_computed_again() -> None:
    engine = SmallEngine(seats=2, pool=256, n_ctx=250, n_batch=64)
    engine.submit(1, text(60), max_tokens=150)
    engine.submit(2, text(60, seed=2), max_tokens=150)
    engine.finish()
    assert engine.computed > 2 * (60 + 149)
    assert engine.is_alone(2)


def test_what_a_resumed_sequence_was_given_at_first_and_had_to_compute_after_all_is_not_cached() -> None:
    engine = SmallEngine(seats=2, pool=256, n_ctx=250, n_batch=64)
    engine.answer(1, text(60), max_tokens=1)
    engine.submit(2, text(60, seed=2), max_tokens=150)
    young = engine.submit(3, text(60), max_tokens=150)
    engine.step()
    assert young.cached == 59
    engine.finish()
    assert engine.done(3).cached_tokens == 0
    assert engine.is_alone(3)


def test_idle_prompts_go_before_anybody_has_to_leave_the_oldest_first() -> None:
    engine = SmallEngine(seats=3, pool=256, n_ctx=250)
    engine.answer(1, text(50), max_tokens=1)
    engine.answer(2, text(50, seed=2), max_tokens=1)
    engine.answer(3, text(60, seed=3), max_tokens=140)
    assert [e for plan in engine.plans for e in plan.edits] == [Truncate(0, 0)]
    assert engine.answer(4, text(50, seed=2), max_tokens=1).cached_tokens == 49


@pytest.mark.parametrize(("length", "request_count"), [(164, 2), (165, 1)])
def test_a_newcomer_waits_until_everybody_has_cells_for_a_while(length: int, request_count: int) -> None:
    # 256 - 60 for the first, and 16 for each of the two: more than the next token, so that it need not leave at once.
    engine = SmallEngine(seats=2, pool=256, n_ctx=250, n_batch=64)
    engine.submit(1, text(60), max_tokens=20)
    engine.step()
    engine.submit(2, text(length, seed=2), max_tokens=10)
    assert len(shares(engine.plan())) == request_count


def test_a_newcomer_displaces_only_as_many_idle_prompts_as_it_must_the_oldest_first() -> None:
    engine = SmallEngine(seats=3, pool=256, n_ctx=250)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    engine.answer(3, text(60, seed=3), max_tokens=1)
    assert [slot.length for slot in engine.cache.slots] == [0, 100, 60]


def test_prompts_that_come_together_and_do_not_fit_together_are_read_one_after_the_other() -> None:
    engine = SmallEngine(seats=2, pool=250, n_ctx=250, n_batch=64)
    engine.submit(1, text(200))
    engine.submit(2, text(200, seed=2))
    engine.finish()
    assert engine.is_alone(1)
    assert engine.is_alone(2)


def test_what_is_needed_from_host_memory_is_not_displaced_by_what_must_go_there() -> None:
    engine = SmallEngine(seats=2, pool=256, n_ctx=250, host_budget_bytes=150)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    engine.answer(3, text(70, seed=3), max_tokens=1)
    assert engine.answer(4, [*text(100), 9], max_tokens=1).cached_tokens == 100


def test_a_prefix_without_room_for_a_copy_is_taken_from_its_owner() -> None:
    engine = SmallEngine(seats=2, pool=256, n_ctx=250, shares=False)
    engine.answer(1, text(200), max_tokens=1)
    assert engine.answer(2, [*text(60), *text(60, seed=2)], max_tokens=1).cached_tokens == 60
    assert [slot.length for slot in engine.cache.slots] == [120, 0]


def test_a_saved_prompt_that_is_longer_than_the_request_needs_room_for_all_of_it() -> None:
    engine = SmallEngine(seats=2, pool=256, n_ctx=256, host_budget_bytes=10_000)
    engine.answer(1, text(200), max_tokens=1)
    engine.answer(2, text(250, seed=2), max_tokens=1)
    assert engine.answer(3, [*text(100), 9], max_tokens=1).cached_tokens == 100


def refused(engine: SmallEngine) -> dict[int, int]:
    """What is asked for next; libllama finds no cells for it."""
    plan = engine.plan()
    engine.run(plan, fault="no cells")
    return shares(plan)


def test_for_want_of_cells_idle_prompts_go_then_the_youngest_then_the_batch_shrinks_then_the_request_breaks() -> None:
    engine = SmallEngine(seats=3, n_batch=8)
    engine.answer(1, text(5, seed=3), max_tokens=1)
    engine.submit(2, text(30))
    engine.submit(3, text(4, seed=2))
    assert [refused(engine) for _ in range(2)] == [{2: 8}, {2: 8}]  # the idle prompt went, then 3, which had no cells
    assert engine.cells.length(0) == 0
    assert [refused(engine) for _ in range(4)] == [{2: 8}, {2: 4}, {2: 2}, {2: 1}]
    assert engine.told(2) == ["Broken"]
    engine.finish()
    assert engine.is_alone(3)


def test_a_batch_that_had_to_shrink_grows_again_step_by_step() -> None:
    engine = SmallEngine(n_batch=8)
    engine.submit(1, text(40))
    assert [refused(engine) for _ in range(3)] == [{1: 8}, {1: 4}, {1: 2}]
    engine.finish()
    assert [shares(plan)[1] for plan in engine.plans[3:9]] == [1, 2, 4, 8, 8, 8]
    assert engine.is_alone(1)


def test_who_left_for_want_of_cells_waits_until_somebody_is_done() -> None:
    # By its own account there is room, so it would come back at once, and be in the way again, for ever.
    engine = SmallEngine(seats=2)
    engine.submit(1, text(4), max_tokens=6)
    engine.submit(2, text(4, seed=2), max_tokens=6)
    engine.step()
    assert refused(engine) == {1: 1, 2: 1}
    engine.finish()
    assert [shares(plan) for plan in engine.plans[2:]] == [{1: 1}] * 5 + [{2: 1}] * 5
    assert engine.is_alone(1)
    assert engine.is_alone(2)


def test_when_another_is_done_all_seats_are_there_again() -> None:
    engine = SmallEngine(seats=2)
    for request, max_tokens in ((1, 3), (2, 9), (3, 9), (4, 9)):
        engine.submit(request, text(4, seed=request), max_tokens=max_tokens)
    engine.step()
    refused(engine)
    engine.finish()
    # Who has left is older than who has not yet begun.
    assert [sorted(shares(plan)) for plan in engine.plans[2:]] == [[1]] * 2 + [[2, 3]] * 8 + [[3, 4]] + [[4]] * 8


def test_when_who_had_to_leave_is_cancelled_all_seats_are_there_again() -> None:
    engine = SmallEngine(seats=2)
    engine.submit(1, text(4), max_tokens=9)
    engine.submit(2, text(4, seed=2))
    engine.step()
    refused(engine)
    engine.scheduler.cancel(2)
    engine.submit(3, text(4, seed=3))
    assert 3 in shares(engine.plan())


# ------------------------------------------------------------------------------------------------- what can go wrong


def test_a_failed_step_breaks_those_in_it_and_no_others() -> None:
    engine = SmallEngine(n_batch=8)
    engine.submit(1, text(8))
    engine.submit(2, text(4, seed=2))
    assert engine.step(fault="failed") == [Broken(request=1, message="failed")]
    engine.finish()
    assert engine.told(1) == ["Broken"]
    assert engine.is_alone(2)


def test_a_request_breaks_with_all_its_choices_at_once() -> None:
    engine = SmallEngine()
    engine.submit(1, text(4), choices=3)
    engine.step()
    assert engine.step(fault="failed") == [Broken(request=1, message="failed")]
    assert engine.scheduler.plan(0.0) is None


@pytest.mark.parametrize("can_truncate", [True, False])
def test_what_host_memory_has_lost_is_computed_again(can_truncate: bool) -> None:  # noqa: FBT001 - a parameter
    engine = SmallEngine(seats=1, can_truncate=can_truncate, host_budget_bytes=1000)
    engine.answer(1, text(100), max_tokens=1)
    engine.answer(2, text(100, seed=2), max_tokens=1)
    again = engine.submit(3, [*text(100), 7, 7], max_tokens=3)
    plan = engine.plan()
    assert (plan.edits[-1], shares(plan)) == (Restore(1, 0, 100), {3: 2})
    engine.run(plan, fault="lost")
    assert again.computed == 0
    assert engine.cells.length(0) == 0
    engine.finish()
    assert engine.done(3).cached_tokens == 0
    assert engine.is_alone(3)


def test_a_copy_of_what_was_lost_is_lost_too() -> None:
    engine = SmallEngine(seats=2, host_budget_bytes=1000)
    engine.answer(1, text(100), max_tokens=1)
    engine.submit(2, text(100, seed=2), max_tokens=2)
    engine.submit(3, text(100, seed=3), max_tokens=2)
    engine.finish()
    engine.submit(4, [*text(100), 7], max_tokens=3)
    engine.submit(5, [*text(100), 8], max_tokens=3)
    plan = engine.plan()
    assert [type(edit) for edit in plan.edits if isinstance(edit, Restore | Copy)] == [Restore, Copy]
    engine.run(plan, fault="lost")
    engine.finish()
    assert [engine.done(request).cached_tokens for request in (4, 5)] == [0, 0]
    assert engine.is_alone(4)
    assert engine.is_alone(5)


def test_a_grammar_that_cannot_go_on_ends_its_request_alone() -> None:
    engine = SmallEngine()
    for request in (1, 2):
        engine.submit(request, text(4, seed=request), choices=2)
    engine.step()
    plan = engine.plan()
    result = engine.memory.run(plan)
    index = [(chunk.sequence.request, chunk.sequence.choice) for chunk in plan.chunks].index((1, 1))
    sampled = [() if at == index else new for at, new in enumerate(result.sampled)]
    broken = (Breach(plan.chunks[index].seq_id, "no way on", "regex"),)
    told = engine.scheduler.apply(plan, replace(result, sampled=tuple(sampled), broken=broken))
    assert told[-1] == Broken(request=1, message="no way on", param="regex")
    assert {event.request for event in told[:-1]} == {1, 2}
    engine.events.clear()
    engine.finish()
    assert engine.told(1) == []
    assert engine.is_alone(2)


# ------------------------------------------------------------------------------------------------------------ cancel


def queued(engine: SmallEngine) -> None:
    for request in range(10, 10 + len(engine.cache.slots)):
        engine.submit(request, text(50, seed=request), max_tokens=3)
    engine.step()
    engine.submit(1, text(90), max_tokens=5)


def chunks_read(count: int) -> Callable[[SmallEngine], None]:
    def stage(engine: SmallEngine) -> None:
        sequence = engine.submit(1, text(90), max_tokens=5)
        for number in range(count):
            assert sequence.computed == 32 * number
            engine.step()

    return stage


def tokens_written(count: int) -> Callable[[SmallEngine], None]:
    def stage(engine: SmallEngine) -> None:
        sequence = engine.submit(1, text(90), max_tokens=5)
        while sequence.generated < count:
            engine.step()

    return stage


def awaiting(engine: SmallEngine) -> None:
    engine.submit(2, [*text(90), 1], max_tokens=3)
    engine.submit(1, [*text(90), 2], max_tokens=3)
    engine.step()


STAGES = {
    "just submitted": chunks_read(0),
    "queued": queued,
    "awaiting a prefix": awaiting,
    "first chunk read": chunks_read(1),
    "second chunk read": chunks_read(2),
    "first token": tokens_written(1),
    "last but one token": tokens_written(4),
    "last token": tokens_written(5),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("pool", [None, 400])
@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_cancelled_request_leaves_nothing_behind_and_is_never_heard_of_again(
    stage: str,
    pool: int | None,
    is_enabled: bool,  # noqa: FBT001 - a parameter
) -> None:
    engine = SmallEngine(seats=2, n_batch=32, pool=pool, n_ctx=200, is_enabled=is_enabled, speculation="on")
    STAGES[stage](engine)
    engine.submit(3, text(40, seed=3), max_tokens=12)
    engine.events.clear()
    engine.scheduler.cancel(1)
    engine.scheduler.cancel(99)  # a number that nobody has
    engine.finish()
    assert engine.told(1) == []
    assert all(engine.is_alone(request) for request in engine.sequences if request != 1)
    assert all(slot.sequence is None for slot in engine.cache.slots)
    assert [engine.scheduler._running, engine.scheduler._awaited, engine.scheduler._guesses] == [{}, {}, {}]
    for slot in engine.cache.slots:
        engine.cache.forget(slot.seq_id)
    assert [engine.cells.room(slot.seq_id) for slot in engine.cache.slots] == [pool or 200] * 2


def test_one_choice_s_end_is_not_the_others() -> None:
    engine = SmallEngine()
    engine.submit(1, text(30), choices=2, max_tokens=9)
    first, second = engine.sequences[1]
    second.max_tokens = 2
    engine.finish()
    assert (first.generated, second.generated) == (9, 2)
    assert engine.told(1).count("Done") == 2


# ----------------------------------------------------------------------------------------------------------- the line


def began(engine: SmallEngine) -> list[int]:
    """The requests that begin with the next step, which is run."""
    plan = engine.plan()
    engine.run(plan)
    return [request.number for request in plan.began]


def test_a_request_begins_when_its_seats_are_free_and_nobody_who_came_later_begins_before() -> None:
    engine = SmallEngine(seats=3)
    engine.submit(1, text(10), max_tokens=3)
    engine.submit(2, text(10, seed=2), max_tokens=9)
    assert began(engine) == [1, 2]
    engine.submit(3, text(10, seed=3), choices=2, max_tokens=2)
    engine.submit(4, text(10, seed=4), max_tokens=2)  # there is a free seat, but somebody waits for it
    assert [began(engine) for _ in range(3)] == [[], [], [3]]
    assert [began(engine) for _ in range(2)] == [[], [4]]
    engine.finish()
    assert all(engine.is_alone(request) for request in (1, 2, 3, 4))


def test_who_was_prepared_late_still_begins_before_all_that_came_later_and_still_wait() -> None:
    engine = SmallEngine(seats=1)
    engine.submit(1, text(10), max_tokens=2)
    assert began(engine) == [1]
    engine.submit(3, text(10, seed=3), max_tokens=1)
    engine.submit(2, text(10, seed=2), max_tokens=1)
    assert [began(engine) for _ in range(3)] == [[], [2], [3]]


def test_choices_that_wait_for_a_prefix_have_their_seats() -> None:
    engine = SmallEngine(seats=3, n_batch=16)
    engine.submit(1, text(100), choices=3, max_tokens=5)
    engine.submit(2, text(10, seed=2), max_tokens=5)
    assert began(engine) == [1]
    while engine.told(1).count("Done") == 0:
        assert began(engine) == []
    assert [request.number for request in engine.plan().began] == [2]


def test_who_waits_for_a_prefix_that_another_request_reads_has_begun() -> None:
    engine = SmallEngine(seats=2, n_batch=16)
    for request in (1, 2, 3):
        engine.submit(request, [*text(100), request], max_tokens=5)
    assert began(engine) == [1, 2]
    assert set(shares(engine.plans[-1])) == {1}


def test_in_a_pool_the_line_waits_for_cells_too() -> None:
    engine = SmallEngine(seats=2, pool=200, n_ctx=150)
    engine.submit(1, text(120), max_tokens=3)
    engine.submit(2, text(120, seed=2), max_tokens=3)
    assert [began(engine) for _ in range(5)] == [[1], [], [], [], [2]]


def test_a_request_for_more_seats_than_there_are_can_never_run() -> None:
    with pytest.raises(ValueError, match="3 seats"):
        SmallEngine(seats=2).submit(1, text(10), choices=3)


def test_a_request_with_another_adapter_waits_until_nobody_runs_and_shares_no_prompt() -> None:
    engine = SmallEngine(seats=3)
    engine.submit(1, text(100), max_tokens=3)
    engine.submit(2, text(100), max_tokens=3, adapter="pirate")
    engine.submit(3, text(100), max_tokens=3)
    assert [began(engine) for _ in range(9)] == [[1], [], [], [], [2], [], [], [], [3]]
    engine.finish()
    assert [engine.done(request).cached_tokens for request in (1, 2, 3)] == [0, 0, 99]


# --------------------------------------------------------------------------------------------------------------- media


def test_positions_of_media_are_shared_like_tokens_where_they_are_equal() -> None:
    picture, other = [-7] * 40, [-8] * 40
    engine = SmallEngine()
    engine.answer(1, [*text(20), *picture, 1, 2])
    assert engine.answer(2, [*text(20), *picture, 3]).cached_tokens == 60
    assert engine.answer(3, [*text(20), *other, 3]).cached_tokens == 20
    assert all(engine.is_alone(request) for request in (1, 2, 3))


def test_nobody_guesses_a_position_of_media() -> None:
    engine = SmallEngine(speculation="on")
    engine.submit(1, [1, 2, 3, -7, -7, 4, 1, 2, 3], max_tokens=3)
    engine.step()
    engine.sequences[1][0].tokens[-4:] = [4, 1, 2, 3]
    assert [chunk.drafted for chunk in engine.plan().chunks] == [0]


# -------------------------------------------------------------------------------------------------------- neighbours


def seats(plan: StepPlan) -> list[int]:
    """The places of a batch, in its order."""
    return [chunk.seq_id for chunk in plan.chunks]


def apart(pool: int | None = None) -> SmallEngine:
    """Three replies, of which the one in the middle is about to end."""
    engine = SmallEngine(seats=3, pool=pool, n_batch=128)
    for request, max_tokens in ((1, 40), (2, 3), (3, 40)):
        engine.submit(request, text(30, seed=request), max_tokens=max_tokens)
    return engine


def test_a_gap_between_live_streams_is_closed_after_a_while() -> None:
    engine = apart()
    engine.finish()
    assert [seats(plan) for plan in engine.plans[1:]] == [[0, 1, 2]] * 2 + [[0, 2]] * 7 + [[0, 1]] * 30
    assert [edit for plan in engine.plans for edit in plan.edits] == [Swap(2, 1)]
    assert all(engine.is_alone(request) for request in (1, 2, 3))


def test_a_newcomer_gets_the_gap_if_it_comes_soon_enough() -> None:
    engine = apart()
    while len(shares(engine.plan())) != 2:
        engine.run(engine.plans[-1])
    engine.run(engine.plans[-1])
    second = engine.sequences[2][0]
    engine.submit(4, [*second.tokens, 7], max_tokens=40)
    engine.finish()
    assert [edit for plan in engine.plans for edit in plan.edits] == []


def test_a_newcomer_that_makes_a_gap_is_brought_to_the_others_at_once() -> None:
    engine = SmallEngine(seats=3)
    for request in (1, 2, 3):
        engine.submit(request, text(30, seed=request), max_tokens=1)
    engine.finish()
    engine.submit(4, text(40, seed=1), max_tokens=9)
    engine.submit(5, text(40, seed=3), max_tokens=9)
    plan = engine.plan()
    assert plan.edits == (Swap(2, 1),)
    assert seats(plan) == [0, 1]
    engine.run(plan)
    engine.finish()
    assert all(engine.is_alone(request) for request in (4, 5))


def test_a_batch_is_in_the_order_of_its_places_whoever_came_first() -> None:
    engine = SmallEngine(seats=2)
    engine.submit(1, text(30), max_tokens=2)
    engine.submit(2, text(30, seed=2), max_tokens=9)
    engine.step()
    engine.step()
    engine.submit(3, text(4, seed=3), max_tokens=9)
    engine.step()
    plan = engine.plan()
    assert [(chunk.seq_id, chunk.sequence.request) for chunk in plan.chunks] == [(0, 3), (1, 2)]


def test_in_a_pool_there_are_no_neighbours() -> None:
    engine = apart(pool=1000)
    engine.finish()
    assert [seats(plan) for plan in engine.plans[3:]] == [[0, 2]] * 37
    assert [edit for plan in engine.plans for edit in plan.edits] == []


@pytest.mark.parametrize("is_lost", [False, True])
def test_what_is_lost_stays_lost_where_it_was_brought(is_lost: bool) -> None:  # noqa: FBT001 - a parameter
    engine = SmallEngine(seats=3, host_budget_bytes=10_000)
    for request in (1, 2, 3):
        engine.submit(request, text(100, seed=request), max_tokens=1)
    engine.finish()
    for request in (4, 5, 6):
        engine.submit(request, text(100, seed=request), max_tokens=1)
    engine.finish()
    engine.submit(7, text(120, seed=3), max_tokens=9)
    engine.submit(8, text(120, seed=6), max_tokens=9)
    engine.step(fault="lost" if is_lost else None)
    engine.finish()
    assert [engine.done(request).cached_tokens for request in (7, 8)] == [0 if is_lost else 100, 100]
    assert all(engine.is_alone(request) for request in (7, 8))


# ------------------------------------------------------------------------------------------------------------ drafts


def test_drafts_change_the_text_in_nothing_but_the_number_of_steps() -> None:
    # What `ModelMemory` writes repeats itself, so that its last tokens have always been seen before.
    steps = {}
    for speculation in ("off", "on"):
        engine = SmallEngine(speculation=speculation, n_ctx=400)
        engine.submit(1, text(60), max_tokens=200)
        engine.submit(2, text(60, seed=2), max_tokens=200)
        engine.finish()
        assert engine.is_alone(1)
        assert engine.is_alone(2)
        assert engine.done(1).completion_tokens == 200
        assert [engine.memory.tokens(slot.seq_id)[: slot.length] for slot in engine.cache.slots] == [
            slot.tokens for slot in engine.cache.slots
        ]
        steps[speculation] = len(engine.plans)
    assert steps["on"] < steps["off"] / 3


@pytest.mark.parametrize("n_ctx", range(70, 80))
@pytest.mark.parametrize("pool", [None, 1000])
def test_drafts_never_reach_beyond_the_context_or_the_length_asked_for(n_ctx: int, pool: int | None) -> None:
    engine = SmallEngine(speculation="on", n_ctx=n_ctx, pool=pool)
    engine.submit(1, text(40), max_tokens=35)
    engine.finish()
    assert engine.done(1).completion_tokens == min(35, n_ctx - 40)
    for plan in engine.plans:
        for chunk in plan.chunks:
            assert chunk.position + len(chunk.tokens) < min(n_ctx, 40 + 35)  # the last token is never fed back


@pytest.mark.parametrize(("speculation", "drafted"), [("on", 5), ("auto", 0), ("off", 0)])
def test_where_guesses_cost_as_much_as_tokens_none_are_made_by_itself(speculation: str, drafted: int) -> None:
    engine = SmallEngine(speculation=speculation)
    for tokens in range(1, 20):
        engine.costs.observe(decoded=tokens, prefilled=0, duration_s=0.1 * tokens)
    engine.submit(1, [1, 2, 3, 4, 5] * 8)
    engine.step()
    engine.sequences[1][0].tokens[-1] = 1  # as the text would go on
    assert [chunk.drafted for chunk in engine.plan().chunks] == [drafted]


def test_drafts_get_longer_as_they_turn_out_right() -> None:
    engine = SmallEngine(speculation="auto")
    engine.submit(1, text(60), max_tokens=300)
    engine.finish()
    lengths = [chunk.drafted for plan in engine.plans for chunk in plan.chunks]
    assert lengths[-20:].count(MAX_DRAFT) > 15
    assert engine.is_alone(1)


def test_drafts_find_cells_beside_everybody_s_next_token() -> None:
    engine = SmallEngine(seats=2, speculation="on", pool=256, n_ctx=250, n_batch=64)
    engine.submit(1, text(60), max_tokens=150)
    engine.submit(2, text(60, seed=2), max_tokens=150)
    engine.finish()
    assert engine.is_alone(1)
    assert engine.is_alone(2)


def test_a_reply_that_ends_among_its_drafts_leaves_only_its_own_tokens() -> None:
    engine = SmallEngine(speculation="on", length=101)
    sequence = engine.submit(1, text(60), max_tokens=200)
    engine.finish()
    assert engine.done(1).reason is FinishReason.STOP
    assert len(sequence.tokens) == 101
    assert EOG not in sequence.tokens
    assert [slot.tokens for slot in engine.cache.slots if slot.tokens] == [sequence.tokens[: sequence.computed]]
    assert engine.cells.length(0) <= 101


def test_while_a_prompt_is_read_nobody_guesses() -> None:
    engine = SmallEngine(speculation="on", n_batch=32)
    engine.submit(1, text(30), max_tokens=100)
    for _ in range(20):
        engine.step()
    engine.submit(2, text(200, seed=2))
    assert shares(engine.plan())[1] == 1


def test_what_is_in_use_can_be_shown_while_another_thread_takes_a_slot_away() -> None:
    class Leaving:
        """A sequence that loses its slot as soon as somebody has looked at it."""

        looks = 0

        @property
        def seq_id(self) -> int | None:
            self.looks += 1
            return 0 if self.looks == 1 else None

    engine = SmallEngine()
    engine.submit(1, text(40))
    engine.step()
    in_use = engine.scheduler.cells_in_use()
    engine.scheduler._live[:] = [Leaving()]  # type: ignore[list-item] # it has what is asked
    assert engine.scheduler.cells_in_use() == in_use
