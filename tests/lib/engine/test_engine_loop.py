from collections.abc import Callable

import pytest

from neuron_lib.engine.loop import EngineLoop
from neuron_lib.engine.protocol import Broken, Delta, Done, SequenceEvent, StepEvents
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import StepPlan, StepResult
from neuron_lib.testing import ScriptedRunner
from neuron_lib.types import Sampling


class NoMoreSteps(Exception):
    pass


class ScriptedSteps(ScriptedRunner):
    """Calls `before[n]` when it is given plan n, and ends the loop by raising instead of running the last one."""

    def __init__(self, steps: int, before: dict[int, Callable[[], object]] | None = None) -> None:
        super().__init__(eog_after={2: 1})
        self._steps = steps
        self._before = before or {}

    def run(self, plan: StepPlan) -> StepResult:
        step = len(self.plans)
        if step == self._steps:
            raise NoMoreSteps
        self._before.get(step, lambda: None)()
        return super().run(plan)


def sequence(request: int, *, prompt: int = 3, max_tokens: int = 99) -> Sequence:
    return Sequence(
        request=request, prompt=[0] * prompt, sampling=Sampling(temperature=0, seed=0), max_tokens=max_tokens
    )


def loop_over(runner: ScriptedRunner) -> tuple[EngineLoop, list[StepEvents]]:
    told: list[StepEvents] = []
    scheduler = Scheduler(seats=4, n_batch=64, n_ctx=64, target_step_s=0.1)
    return EngineLoop(scheduler, runner, report=told.append), told


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
    loop.inbox.put(sequence(1))
    loop.inbox.put(sequence(2))
    with pytest.raises(NoMoreSteps):
        loop.run_forever()
    assert told == [StepEvents(1, (Delta(1, "a "), Delta(2, "a ")))]


def test_a_step_that_only_reads_a_prompt_counts_and_says_nothing() -> None:
    runner = ScriptedRunner()
    scheduler = Scheduler(seats=1, n_batch=2, n_ctx=64, target_step_s=0.1)
    told: list[StepEvents] = []
    loop = EngineLoop(scheduler, runner, report=told.append)
    scheduler.submit(sequence(1, prompt=5))
    loop.step()
    assert (loop.steps, told) == (1, [])


def test_instructions_take_effect_between_steps() -> None:
    runner = ScriptedSteps(
        4,
        {
            1: lambda: loop.inbox.put(sequence(2)),
            2: lambda: loop.inbox.put(1),
            3: lambda: loop.inbox.put(sequence(3)),
        },
    )
    loop, told = loop_over(runner)
    loop.inbox.put(sequence(1))
    with pytest.raises(NoMoreSteps):
        loop.run_forever()
    assert [sorted(c.sequence.request for c in plan.chunks) for plan in runner.plans] == [[1], [1], [1, 2], [2]]
    assert len(events_of(told, 1)) == 3
    assert [type(event) for event in events_of(told, 2)] == [Delta, Done]


def test_a_sequence_that_can_never_run_is_broken_and_harms_nobody() -> None:
    runner = ScriptedSteps(1)
    loop, told = loop_over(runner)
    loop.inbox.put(sequence(1, prompt=65))
    loop.inbox.put(sequence(3))
    with pytest.raises(NoMoreSteps):
        loop.run_forever()
    assert [type(event) for event in events_of(told, 1)] == [Broken]
    assert [type(event) for event in events_of(told, 3)] == [Delta]


def test_what_waits_in_the_inbox_is_in_flight() -> None:
    loop, _ = loop_over(ScriptedRunner())
    loop.inbox.put(sequence(1))
    assert loop.in_flight == 1
