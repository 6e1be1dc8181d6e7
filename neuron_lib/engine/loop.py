"""The engine thread: take commands, plan, run, apply, report. The only place where a scheduler meets a runner."""

import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Final

from msgspec.structs import replace

from neuron_lib.engine.protocol import Broken, Cancel, Cancelled, Delta, Done, SequenceEvent, StepEvents
from neuron_lib.engine.runner import Runner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.sequence import Sequence

__all__ = ("EngineLoop",)

_Instruction = int | Cancel
"""What the loop is told between steps: the number of a request that waits to be taken, or one to be left."""


class EngineLoop:
    """Runs until its thread ends with the process. `start` and `cancel` are for any thread; `steps` and `in_flight` may
    be read from any, to show.

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
        self._inbox: Final[SimpleQueue[_Instruction]] = SimpleQueue()
        self._waiting: dict[int, tuple[Sequence, ...]] = {}  # who pops a request from it, and only it, has it
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
        """Sequences not finished, and requests not begun."""
        return self._scheduler.in_flight + len(self._waiting)

    def start(self, sequences: tuple[Sequence, ...]) -> None:
        """Take up all sequences of one request before the next step."""
        request = sequences[0].request
        self._waiting[request] = sequences
        self._inbox.put(request)

    def cancel(self, request: int) -> None:
        """Leave a request before the next step, and say so then; at once, if it was never taken up: a step that never
        ends must not lay its end at the door of what waited behind it.
        """
        if self._waiting.pop(request, None) is None:
            self._inbox.put(Cancel(request))
        else:
            self._report(Cancelled(request))

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
                self._obey(self._inbox.get(block=block))
                block = False
        except Empty:
            return

    def _obey(self, instruction: _Instruction) -> None:
        if isinstance(instruction, Cancel):
            self._scheduler.cancel(instruction.request)
            self._forget(instruction.request)
            self._report(Cancelled(instruction.request))
            return
        for sequence in self._waiting.pop(instruction, ()):
            try:
                self._scheduler.submit(sequence)
            except ValueError as error:
                self._tell([sequence.broken(str(error))])


def _joined(earlier: Delta | None, event: Delta | Done) -> Delta | Done:
    """Two events of a sequence as one."""
    if earlier is None:
        return event
    text, logprobs = earlier.text + event.text, earlier.logprobs + event.logprobs
    if isinstance(event, Done):
        return replace(event, text=text, logprobs=logprobs)
    return Delta(event.request, text, earlier.tokens + event.tokens, event.choice, logprobs)
