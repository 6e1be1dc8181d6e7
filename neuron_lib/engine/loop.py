"""The engine thread: take requests, plan, run, apply, report. The only place where a scheduler meets a runner."""

import time
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

from msgspec.structs import replace

from neuron_lib.engine.line import Request
from neuron_lib.engine.protocol import Began, Broken, Cancelled, Delta, Done, SequenceEvent, StepEvents, Vector
from neuron_lib.engine.request_lines import RequestLines
from neuron_lib.engine.runner import Runner
from neuron_lib.engine.scheduler import Scheduler
from neuron_lib.engine.vector_scheduler import VectorScheduler
from neuron_lib.tally import Tally
from neuron_lib.types import EngineMeasures

__all__ = ("EngineLoop",)

_Instruction: TypeAlias = Request | int
"""What the loop is told between steps: a request that is prepared, or the number of one to be given up."""
_GAP_BOUNDS_S: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
_JOINED_LIMIT_S: Final = 0.04
"""How long deltas are joined for a daemon that has not read the report before."""


class EngineLoop:
    """Runs until its thread ends with the process. Any thread may call `submit` and `cancel`, and read `steps`,
    `in_flight` and `measures` to show them.

    Deltas are reported at once when the daemon has read the report before. If it has not, it has too little processor
    time already, and the deltas are joined with those of the next steps, for 40 ms at most. `report_interval_s` is the
    least time between two reports of deltas alone. First tokens and ends are always reported at once.
    """

    def __init__(
        self,
        scheduler: Scheduler | VectorScheduler,
        runner: Runner,
        *,
        report: Callable[[StepEvents | Began | Cancelled], None],
        is_read: Callable[[], bool] = lambda: True,
        report_interval_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_read` says whether the daemon has read all that was reported. `clock` is the clock of
        `Request.arrived_s`, in seconds.
        """
        self._inbox: Final[SimpleQueue[_Instruction]] = SimpleQueue()
        self.steps: int = 0
        self._scheduler: Final = scheduler
        self._runner: Final = runner
        self._report: Final = report
        self._is_read: Final = is_read
        self._report_interval_s: Final = report_interval_s
        self._clock: Final = clock
        self._reported_at = clock()
        self._stepped_at = self._reported_at
        self._gaps: Final = Tally(_GAP_BOUNDS_S)
        self._unreported: dict[tuple[int, int], Delta] = {}  # by request and choice
        self._begun: set[tuple[int, int]] = set()  # whose first token has been reported
        self._lines: Final = RequestLines()

    @property
    def in_flight(self) -> int:
        """Sequences that are not finished, and instructions that are not taken in yet."""
        return self._scheduler.in_flight + self._inbox.qsize()

    def measures(self) -> EngineMeasures:
        """What was counted so far."""
        held, live = self._scheduler.cells_in_use()
        return EngineMeasures(
            token_gaps=self._gaps.show(),
            kv_cells_held=held,
            kv_cells_live=live,
            prefill_tok_s=self._scheduler.prefill_tok_s,
        )

    def submit(self, request: Request) -> None:
        """Let a request enter the line before the next step."""
        self._inbox.put(request)

    def cancel(self, number: int) -> None:
        """Give a request up before the next step, and report then that the engine has left it."""
        self._inbox.put(number)

    def run_forever(self) -> None:
        """Step as long as there is work, sleep in the inbox when there is none. Ends by raising `ContextBroken`."""
        while True:
            self._take_instructions(block=self._scheduler.is_idle)
            self.step()

    def step(self) -> None:
        """One plan, run and apply; does nothing when there is nothing to compute."""
        now_s = self._clock()
        plan = self._scheduler.plan(now_s)
        if plan is None:
            return
        for request in plan.began:
            self._lines.began(request, now_s=now_s)
            cached = request.sequences[0].cached or 0
            self._report(Began(request.number, replies=len(request.sequences), cached_tokens=cached))
        events = self._scheduler.apply(plan, self._runner.run(plan))
        self.steps += 1
        self._note_gaps(events)
        self._tell(events)

    def _note_gaps(self, events: Iterable[SequenceEvent]) -> None:
        """Count the time since the last step for each reply that has got tokens before and gets more now."""
        now = self._clock()
        going_on = sum(
            isinstance(event, Delta | Done) and (event.request, event.choice) in self._begun for event in events
        )
        if going_on:
            self._gaps.add(now - self._stepped_at, times=going_on)
        self._stepped_at = now

    def _tell(self, events: Iterable[SequenceEvent]) -> None:
        """Report what is urgent, and with it all deltas that were held back; at most one event for each sequence."""
        urgent: list[SequenceEvent] = []
        for event in events:
            if isinstance(event, Broken):
                self._lines.broke(event)
                self._forget(event.request)
                urgent.append(event)
                continue
            if isinstance(event, Vector):
                self._lines.ended_one(event.request)
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
                self._lines.ended_one(event.request)
                self._begun.discard(key)
        now = self._clock()
        if urgent or (self._unreported and self._is_due(now - self._reported_at)):
            self._report(StepEvents(self.steps, (*self._unreported.values(), *urgent)))
            self._unreported.clear()
            self._reported_at = now

    def _is_due(self, since_s: float) -> bool:
        """Whether deltas are to be reported, `since_s` after the last report."""
        return since_s >= self._report_interval_s and (since_s >= _JOINED_LIMIT_S or self._is_read())

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
        if isinstance(instruction, int):
            self._scheduler.cancel(instruction)
            self._lines.cancelled(instruction)
            self._forget(instruction)
            self._report(Cancelled(instruction))
            return
        try:
            self._scheduler.submit(instruction)
        except ValueError as error:
            self._tell([instruction.sequences[0].broken(str(error))])


def _joined(earlier: Delta | None, event: Delta | Done) -> Delta | Done:
    """Two events of one sequence as one event."""
    if earlier is None:
        return event
    text, logprobs = earlier.text + event.text, earlier.logprobs + event.logprobs
    if isinstance(event, Done):
        return replace(event, text=text, logprobs=logprobs)
    return Delta(event.request, text, earlier.tokens + event.tokens, event.choice, logprobs)
