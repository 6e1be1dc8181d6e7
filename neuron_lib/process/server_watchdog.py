"""Whether a program that serves a model gets on. Pure: see the table in `neuron_lib.child.watchdog`."""

from typing import Final

from neuron_lib.child.watchdog import Watchdog
from neuron_lib.process.family import Usage

__all__ = ("ServerWatchdog",)

_GROWTH_BYTES: Final = 1 << 20
_CPU_S: Final = 0.2


class ServerWatchdog(Watchdog):
    """Tell it of every sign of the program, and call `look` each `look_s`.

    While the program starts, a line of output is progress, and so is processor time, and memory that has grown or was
    read from storage. Nobody knows what such a program does: compiling for a GPU takes minutes of processor time and
    nothing else. So a start that computes for ever is not noticed, unless it has a limit of its own.

    A program that serves is silent if it does not answer its health probe. It makes progress when it sends a part of
    any reply, and has nothing to do without requests.
    """

    def __init__(self, *, stall_limit_s: float, silence_limit_s: float) -> None:
        super().__init__(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s, silence_counts=False)
        self._usage = Usage()

    def hear_line(self) -> None:
        """The program, which does not serve yet, has written a line."""
        if not self.silence_counts:
            self.note_progress()

    def hear_usage(self, usage: Usage) -> None:
        """What the program, which does not serve yet, holds now."""
        before = self._usage
        grown_bytes = max(usage.rss_bytes - before.rss_bytes, usage.read_bytes - before.read_bytes)
        if grown_bytes >= _GROWTH_BYTES or usage.cpu_s - before.cpu_s >= _CPU_S or usage.pids != before.pids:
            self._usage = usage
            self.note_progress()

    def begin_serving(self) -> None:
        """From now on silence counts, and lines do not."""
        self.silence_counts = True
        self.note_life()
        self.note_progress()

    def hear_health(self, *, is_busy: bool) -> None:
        """The program, which has requests if it `is_busy`, has answered its health probe."""
        self.note_life()
        if not is_busy:
            self.note_progress()
