"""The engine thread: take commands, plan, run, apply, report. The only place where a scheduler meets a runner."""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from neuron_lib.engine.protocol import SequenceEvent, StepEvents
from neuron_lib.engine.runner import Runner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence

__all__ = ("EngineLoop", "Instruction")

Instruction = Sequence | int
"""What the loop is told between steps: a new sequence, or the number of a request to cancel."""


class EngineLoop:
    """Runs until its thread ends with the process. `steps` and `in_flight` may be read from any thread, to show."""

    def __init__(self, scheduler: Scheduler, runner: Runner, *, report: Callable[[StepEvents], None]) -> None:
        self.inbox: Final[SimpleQueue[Instruction]] = SimpleQueue()
        self.steps = 0
        self._scheduler: Final = scheduler
        self._runner: Final = runner
        self._report: Final = report

    @property
    def in_flight(self) -> int:
        """Sequences not finished, those still in the inbox included."""
        return self._scheduler.in_flight + self.inbox.qsize()

    def run_forever(self) -> None:
        """Step as long as there is work, sleep in the inbox when there is none. Ends by raising `ContextBroken`."""
        while True:
            self._take_instructions(block=self._scheduler.in_flight == 0)
            self.step()

    def step(self) -> None:
        """One plan, run and apply; does nothing when there is nothing to compute."""
        plan = self._scheduler.plan()
        if plan is None:
            return
        events = self._scheduler.apply(plan, self._runner.run(plan))
        self.steps += 1
        if events:
            self._report(StepEvents(self.steps, tuple(events)))

    def _take_instructions(self, *, block: bool) -> None:
        try:
            while True:
                self._obey(self.inbox.get(block=block))
                block = False
        except Empty:
            return

    def _obey(self, instruction: Instruction) -> None:
        if isinstance(instruction, int):
            self._scheduler.cancel(instruction)
            return
        try:
            self._scheduler.submit(instruction)
        except ValueError as error:
            refused: tuple[SequenceEvent, ...] = (instruction.broken(str(error)),)
            self._report(StepEvents(self.steps, refused))
