"""Whether an engine gets on: which of its reports are signs of life and of progress. Pure.

The table in `neuron_lib.child.watchdog` sums the rules up.
"""

from typing import Final

from neuron_lib.child.watchdog import Watchdog
from neuron_lib.engine.protocol import Beat, Planned, Progress, Ready, Report, StepEvents

__all__ = ("EngineWatchdog",)

_GROWTH_BYTES: Final = 1 << 20


class EngineWatchdog(Watchdog):
    """Call `hear` with every report of the engine, and `look` each `look_s`.

    Answers to prompts and beats with an unchanged step number are no progress: prompts are prepared and refused by
    threads that go on while a step hangs. Those threads are judged by themselves, by what beats say of their work.

    While the model is loaded, a beat is progress if the process has grown since, or has read from storage. The first
    computation reads the weights and reports nothing, and weights that exceed the memory do not make the process grow.
    Processor time is no progress, because an endless loop takes it too.

    An engine beats from when its own code is imported. Before the first beat, silence does not count.
    """

    def __init__(self, *, stall_limit_s: float, silence_limit_s: float) -> None:
        super().__init__(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s, silence_counts=False)
        self._is_ready = False
        self._step = -1
        self._rss_bytes = 0
        self._read_bytes = 0

    def hear(self, report: Report) -> None:
        """Take a report of the engine."""
        self.note_life()
        match report:
            case Beat():
                self.silence_counts = True
                self.note_work({work.name: work.done for work in report.work if work.waiting})
                if self._is_progress(report):
                    self._step, self._rss_bytes, self._read_bytes = report.step, report.rss_bytes, report.read_bytes
                    self.note_progress()
            case Ready() | Planned() | Progress() | StepEvents():
                self._is_ready = self._is_ready or isinstance(report, Ready)
                self.note_progress()

    def _is_progress(self, beat: Beat) -> bool:
        if self._is_ready:
            # A long prompt that is being read takes steps and has no events yet.
            return beat.in_flight == 0 or beat.step != self._step
        grown_bytes = max(beat.rss_bytes - self._rss_bytes, beat.read_bytes - self._read_bytes)
        return grown_bytes >= _GROWTH_BYTES
