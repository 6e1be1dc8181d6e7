"""The engine thread: take commands, plan, run, apply, report. The only place where a scheduler meets a runner."""

import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Final

from msgspec.structs import replace

from neuron_lib.engine.protocol import Broken, Cancelled, Delta, Done, SequenceEvent, StepEvents
from neuron_lib.engine.runner import Runner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence

__all__ = ("EngineLoop", "Instruction")

Instruction = Sequence | int
"""What the loop is told between steps: a new sequence, or the number of a request to cancel."""


class EngineLoop:
    """Runs until its thread ends with the process. `steps` and `in_flight` may be read from any thread, to show.

    Deltas are reported no more often than each `report_interval_s`, because a report takes the daemon, its clients and
    whatever they displace as much time as a fifth of a step of a small model; first tokens and ends go at once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        *,
        report: Callable[[StepEvents | Cancelled], None],
        report_interval_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inbox: Final[SimpleQueue[Instruction]] = SimpleQueue()
        self.steps = 0
        self._scheduler: Final = scheduler
        self._runner: Final = runner
        self._report: Final = report
        self._report_interval_s: Final = report_interval_s
        self._clock: Final = clock
        self._reported_at = clock()
        self._unreported: dict[tuple[int, int], Delta] = {}  # by request and choice
        self._begun: set[tuple[int, int]] = set()  # whose first token has been reported

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
        self._tell(events)

    def _tell(self, events: Iterable[SequenceEvent]) -> None:
        """Report what cannot wait, and with it all that has waited; at most one event for each sequence."""
        urgent: list[SequenceEvent] = []
        for event in events:
            if isinstance(event, Broken):
                self._forget(event.request)
                urgent.append(event)
                continue
            key = event.request, event.choice
            joined = _joined(self._unreported.pop(key, None), event)
            if isinstance(joined, Delta) and key in self._begun:
                self._unreported[key] = joined
                continue
            urgent.append(joined)
            if isinstance(joined, Delta):
                self._begun.add(key)
            else:
                self._begun.discard(key)
        now = self._clock()
        if urgent or (self._unreported and now - self._reported_at >= self._report_interval_s):
            self._report(StepEvents(self.steps, (*self._unreported.values(), *urgent)))
            self._unreported.clear()
            self._reported_at = now

    def _forget(self, request: int) -> None:
        for key in [key for key in self._begun if key[0] == request]:
            self._begun.discard(key)
            self._unreported.pop(key, None)

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
            self._forget(instruction)
            self._report(Cancelled(instruction))
            return
        try:
            self._scheduler.submit(instruction)
        except ValueError as error:
            self._tell([instruction.broken(str(error))])


def _joined(earlier: Delta | None, event: Delta | Done) -> Delta | Done:
    """Two events of a sequence as one."""
    if earlier is None:
        return event
    text, logprobs = earlier.text + event.text, earlier.logprobs + event.logprobs
    if isinstance(event, Done):
        return replace(event, text=text, logprobs=logprobs)
    return Delta(event.request, text, earlier.tokens + event.tokens, event.choice, logprobs)
