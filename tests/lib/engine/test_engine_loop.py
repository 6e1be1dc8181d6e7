import dataclasses
import logging
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from neuron_lib.engine.line import Request
from neuron_lib.engine.loop import EngineLoop
from neuron_lib.engine.protocol import Began, Broken, Cancelled, Delta, Done, SequenceEvent, StepEvents, Vector
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan, StepResult
from neuron_lib.engine.vector_scheduler import VectorScheduler
from neuron_lib.testing import ScriptedRunner
from neuron_lib.types import TokenLogprob
from tests.fakes.log_lines import said
from tests.fakes.small_engine import SmallEngine


class NoMoreSteps(Exception):
    pass


class ScriptedSteps(ScriptedRunner):
    """Calls `before[n]` when it is given plan n, and ends the loop by raising instead of running the last one."""

    def __init__(
        self,
        steps: int,
        before: dict[int, Callable[[], object]] | None = None,
        *,
        failures: dict[int, str] | None = None,
    ) -> None:
        super().__init__(eog_after={2: 1}, failures=failures)
        self._steps = steps
        self._before = before or {}

    def run(self, plan: StepPlan) -> StepResult:
        step = len(self.plans)
        if step == self._steps:
            raise NoMoreSteps
        self._before.get(step, lambda: None)()
        return super().run(plan)


def sequence(request: int, *, prompt: int = 3, max_tokens: int = 99) -> Sequence:
    return Sequence(request=request, prompt=[0] * prompt, max_tokens=max_tokens)


def alone(sequence: Sequence, *, arrived_s: float = 0.0) -> Request:
    """A request for one choice."""
    return Request(sequence.request, (sequence,), arrived_s=arrived_s)


def loop_over(
    runner: ScriptedRunner,
    *,
    n_batch: int = 64,
    is_read: Callable[[], bool] = lambda: True,
    report_interval_s: float = 0,
    clock: Callable[[], float] = lambda: 0.0,
    on_other: Callable[[Began | Cancelled], object] = lambda _report: None,
    scheduler: Scheduler | VectorScheduler | None = None,
) -> tuple[EngineLoop, list[StepEvents]]:
    """A loop that reports each step at once, unless it is given an interval and a clock to measure it with."""
    told: list[StepEvents] = []

    def hear(report: StepEvents | Began | Cancelled) -> None:
        if isinstance(report, StepEvents):
            told.append(report)
        else:
            on_other(report)

    decides = scheduler or SmallEngine(n_batch=n_batch, n_ctx=64).scheduler
    loop = EngineLoop(decides, runner, report=hear, is_read=is_read, report_interval_s=report_interval_s, clock=clock)
    return loop, told


def run(loop: EngineLoop, *sequences: Sequence) -> None:
    """Run until the script ends."""
    for each in sequences:
        loop.submit(alone(each))
    with pytest.raises(NoMoreSteps):
        loop.run_forever()


def events_of(told: list[StepEvents], request: int) -> list[SequenceEvent]:
    return [event for step in told for event in step.events if event.request == request]


def test_a_step_without_work_runs_nothing_and_says_nothing() -> None:
    runner = ScriptedRunner()
    loop, told = loop_over(runner)
    loop.step()
    assert (loop.steps, runner.plans, told) == (0, [], [])


def test_one_frame_carries_the_events_of_all_sequences_of_a_step() -> None:
    runner = ScriptedSteps(1)
    loop, told = loop_over(runner)
    run(loop, sequence(1), sequence(2))
    assert told == [StepEvents(1, (Delta(1, "a "), Delta(2, "a ")))]


def test_a_step_that_only_reads_a_prompt_counts_and_says_nothing() -> None:
    loop, told = loop_over(ScriptedSteps(1), n_batch=4)
    run(loop, sequence(1, prompt=5))
    assert (loop.steps, told) == (1, [])


def test_instructions_take_effect_between_steps() -> None:
    runner = ScriptedSteps(
        4,
        {
            1: lambda: loop.submit(alone(sequence(2))),
            2: lambda: loop.cancel(1),
            3: lambda: loop.submit(alone(sequence(3))),
        },
    )
    loop, told = loop_over(runner)
    run(loop, sequence(1))
    assert [sorted(c.sequence.request for c in plan.chunks) for plan in runner.plans] == [[1], [1], [1, 2], [2]]
    assert len(events_of(told, 1)) == 3
    assert [type(event) for event in events_of(told, 2)] == [Delta, Done]


def test_a_sequence_that_can_never_run_is_broken_and_harms_nobody() -> None:
    runner = ScriptedSteps(1)
    loop, told = loop_over(runner)
    run(loop, sequence(1, prompt=65), sequence(3))
    assert [type(event) for event in events_of(told, 1)] == [Broken]
    assert [type(event) for event in events_of(told, 3)] == [Delta]


def test_what_waits_in_the_inbox_is_in_flight() -> None:
    loop, _ = loop_over(ScriptedRunner())
    loop.submit(alone(sequence(1)))
    assert loop.in_flight == 1


def test_between_two_reports_deltas_are_joined_and_the_first_token_and_the_end_never_wait() -> None:
    runner = ScriptedSteps(9)
    loop, told = loop_over(runner, report_interval_s=3, clock=lambda: len(runner.plans))
    run(loop, sequence(1, max_tokens=6), sequence(3))
    assert [
        (step.step, event.request, event.text) for step in told for event in step.events if isinstance(event, Delta)
    ] == [
        (1, 1, "a "),
        (1, 3, "a "),
        (4, 1, "a a a "),
        (4, 3, "a a a "),
        (6, 3, "a a "),  # with the other's end, so that one frame carries both
        (9, 3, "a a a "),
    ]
    assert [(step.step, done.text) for step in told for done in step.events if isinstance(done, Done)] == [(6, "a a ")]


def test_deltas_are_joined_while_the_daemon_has_not_read_the_last_report() -> None:
    runner = ScriptedSteps(9)
    loop, told = loop_over(runner, is_read=lambda: len(runner.plans) in {3, 7, 8})
    run(loop, sequence(1))
    assert [(step.step, event.text) for step in told for event in step.events if isinstance(event, Delta)] == [
        (1, "a "),
        (3, "a a "),
        (7, "a a a a "),
        (8, "a "),
    ]


def test_deltas_are_joined_for_a_busy_daemon_for_40_ms_at_most() -> None:
    runner = ScriptedSteps(9)
    loop, told = loop_over(runner, is_read=lambda: False, clock=lambda: len(runner.plans) / 64)
    run(loop, sequence(1))
    assert [step.step for step in told] == [1, 4, 7]


def test_joined_deltas_keep_the_number_of_tokens_and_their_log_probabilities() -> None:
    class Certain(ScriptedSteps):
        def run(self, plan: StepPlan) -> StepResult:
            result = super().run(plan)
            logprob = TokenLogprob(b"a ", float(len(self.plans)))
            sampled = tuple(tuple(replace(new, logprob=logprob) for new in each) for each in result.sampled)
            return replace(result, sampled=sampled)

    runner = Certain(4)
    loop, told = loop_over(runner, report_interval_s=3, clock=lambda: len(runner.plans))
    run(loop, sequence(1))
    joined = told[-1].events[0]
    assert isinstance(joined, Delta)
    assert (joined.tokens, [each.logprob for each in joined.logprobs]) == (3, [2.0, 3.0, 4.0])


@pytest.mark.parametrize(("is_broken", "last_words"), [(False, []), (True, [Broken])])
def test_what_was_not_yet_told_of_a_request_that_is_gone_is_never_told(
    is_broken: bool,  # noqa: FBT001 - a parameter
    last_words: list[type],
) -> None:
    def cancel_and_go_on() -> None:
        loop.cancel(1)
        loop.submit(alone(sequence(3)))

    runner = ScriptedSteps(5, {2: cancel_and_go_on}, failures={2: "it broke"} if is_broken else {})
    loop, told = loop_over(runner, report_interval_s=99)
    run(loop, sequence(1))
    assert [type(event) for event in events_of(told, 1)] == [Delta, *last_words]
    assert [type(event) for event in events_of(told, 3)] == [Delta]


def test_a_cancelled_request_is_said_to_be_left_only_when_the_step_that_it_was_in_has_ended() -> None:
    left: list[tuple[Began | Cancelled, int]] = []
    runner = ScriptedSteps(3, {1: lambda: loop.cancel(1)})
    loop, _ = loop_over(runner, on_other=lambda report: left.append((report, loop.steps)))
    run(loop, sequence(1), sequence(3))
    assert left == [(Began(1), 0), (Began(3), 0), (Cancelled(1), 2)]


def test_a_request_that_waits_behind_a_step_and_is_cancelled_never_begins() -> None:
    heard: list[Began | Cancelled] = []

    def come_and_go() -> None:
        loop.submit(Request(3, (sequence(3), sequence(3)), seats=2))
        loop.cancel(3)

    loop, told = loop_over(ScriptedSteps(3, {1: come_and_go}), on_other=heard.append)
    run(loop, sequence(1))
    assert heard == [Began(1), Cancelled(3)]
    assert events_of(told, 3) == []


def test_a_beginning_is_told_before_the_step_that_it_begins_with_is_run() -> None:
    heard: list[Began | Cancelled] = []
    before_the_first_step: list[Began | Cancelled] = []
    runner = ScriptedSteps(2, {0: lambda: before_the_first_step.extend(heard)})
    loop, _ = loop_over(runner, on_other=heard.append)
    loop.submit(Request(5, (sequence(5), sequence(5)), seats=2))
    run(loop)
    assert before_the_first_step == heard == [Began(5, replies=2)]


def test_a_beginning_says_how_much_of_the_prompt_an_earlier_request_has_left() -> None:
    heard: list[Began | Cancelled] = []
    loop, told = loop_over(ScriptedSteps(2, {0: lambda: loop.submit(alone(sequence(2)))}), on_other=heard.append)
    run(loop, sequence(1, max_tokens=1))
    assert [type(event) for event in events_of(told, 1)] == [Done]
    assert heard == [Began(1), Began(2, cached_tokens=2)]


def test_a_vector_is_reported_at_once() -> None:
    class Pooling(ScriptedSteps):
        def run(self, plan: StepPlan) -> StepResult:
            return replace(super().run(plan), vectors=(b"v",) * len(plan.chunks))

    loop, told = loop_over(Pooling(2), report_interval_s=99, scheduler=VectorScheduler(seats=2, texts=2, n_batch=4))
    run(loop, sequence(5), sequence(6), sequence(7))
    assert events_of(told, 5) == [Vector(request=5, choice=0, values=b"v", prompt_tokens=3, prefill_s=0.003)]
    assert events_of(told, 6) == [Vector(request=6, choice=0, values=b"v", prompt_tokens=3, prefill_s=0.003)]


def test_a_text_that_no_batch_holds_breaks_its_request() -> None:
    loop, told = loop_over(ScriptedSteps(0), scheduler=VectorScheduler(seats=2, texts=2, n_batch=2))
    loop.submit(alone(sequence(5)))
    loop.submit(alone(sequence(6, prompt=2)))
    run(loop)
    assert [type(event) for event in events_of(told, 5)] == [Broken]
    assert events_of(told, 6) == []


def test_a_reply_says_how_long_its_request_waited_to_begin() -> None:
    runner = ScriptedSteps(3)
    loop, told = loop_over(runner, clock=lambda: 5.0 + len(runner.plans))
    loop.submit(alone(sequence(2), arrived_s=1.0))
    run(loop, sequence(3))
    (done,) = [event for event in events_of(told, 2) if isinstance(event, Done)]
    assert done.queue_s == 4.0


def test_the_time_between_tokens_is_counted_for_each_reply_from_its_second_token_on() -> None:
    runner = ScriptedSteps(4)
    loop, _ = loop_over(runner, clock=lambda: len(runner.plans) * 0.04)
    run(loop, sequence(1), sequence(3))
    gaps = loop.measures().token_gaps
    assert dict(zip(gaps.bounds, gaps.counts, strict=False)) == dict.fromkeys(gaps.bounds, 0) | {0.05: 6}
    assert gaps.sum == pytest.approx(6 * 0.04)


def test_the_time_without_work_is_no_time_between_tokens() -> None:
    runner = ScriptedRunner()
    now = [0.0]
    loop, _ = loop_over(runner, clock=lambda: now[0])
    for _ in range(2):
        loop.submit(alone(sequence(len(runner.plans) + 1, max_tokens=2)))
        loop._take_instructions(block=False)
        while not loop._scheduler.is_idle:
            now[0] += 0.04
            loop.step()
        now[0] += 100
    gaps = loop.measures().token_gaps
    assert sum(gaps.counts) == 2
    assert gaps.sum == pytest.approx(0.08)


def test_cells_of_prompts_that_are_kept_for_later_are_held_and_not_live() -> None:
    loop, _ = loop_over(ScriptedSteps(3))
    run(loop, sequence(1), sequence(3, max_tokens=2))
    measures = loop.measures()
    live = 3 + 2 + 1  # the prompt, two tokens, and the one of the step that has been planned and has not run
    assert (measures.kv_cells_live, measures.kv_cells_held) == (live, live + 3 + 1)


def test_cells_that_replies_share_are_live_once() -> None:
    prompt = list(range(32))
    choices = tuple(Sequence(request=1, choice=number, prompt=prompt, max_tokens=9) for number in range(2))
    loop, _ = loop_over(ScriptedRunner(), scheduler=SmallEngine(pool=128, n_ctx=64).scheduler)
    loop.submit(Request(1, choices))
    loop._take_instructions(block=False)
    for _ in range(4):
        loop.step()
    measures = loop.measures()
    assert 32 < measures.kv_cells_live == measures.kv_cells_held < 2 * 32


def test_a_context_for_vectors_holds_no_cells() -> None:
    loop, _ = loop_over(ScriptedRunner(), scheduler=VectorScheduler(seats=1, texts=1, n_batch=8))
    assert (loop.measures().kv_cells_live, loop.measures().kv_cells_held) == (0, 0)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """The request's id, the message and the request's number of each line."""
    return [(vars(record)["request_id"], said(record), vars(record)["request"]) for record in caplog.records]


def test_the_log_says_when_a_request_begins_and_ends_and_nothing_of_its_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    loop, _ = loop_over(ScriptedSteps(6))
    loop.submit(with_id(alone(sequence(1, max_tokens=3)), "mine"))
    run(loop, sequence(3))
    assert lines_of(caplog) == [
        ("mine", "request begins", 1),
        ("", "request begins", 3),
        ("mine", "request ends: complete", 1),
    ]


def test_the_log_says_that_a_request_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    loop, _ = loop_over(ScriptedSteps(3, {1: lambda: loop.cancel(1)}))
    loop.submit(with_id(alone(sequence(1)), "mine"))
    run(loop, sequence(3))
    assert ("mine", "request ends: cancelled", 1) in lines_of(caplog)


def test_the_log_warns_of_a_request_that_the_engine_could_not_go_on_with(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    loop, _ = loop_over(ScriptedSteps(4, {1: lambda: loop.submit(alone(sequence(3)))}, failures={1: "no"}))
    loop.submit(with_id(alone(sequence(1)), "mine"))
    run(loop)
    assert [line[0] for line in lines_of(caplog)] == ["mine"]


def with_id(request: Request, request_id: str) -> Request:
    return dataclasses.replace(request, request_id=request_id)
