"""What happens when, in simulated time. Pure: the only clock of a simulation."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Final

__all__ = ("Agenda", "Entry")


class Entry:
    """Something that is to happen. `drop` takes it off the agenda."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def drop(self) -> None:
        """It shall not happen."""
        self.act = None


class Agenda:
    """Entries in the order of their times. Entries of the same time happen in the order in which they were added.

    `now_s` is the simulated time in seconds. It starts at 0.
    """

    def __init__(self) -> None:
        self.now_s: float = 0.0
        self._entries: Final[list[tuple[float, int, Entry]]] = []
        self._numbers: Final = count()

    def at(self, time_s: float, act: Callable[[], None]) -> Entry:
        """Let `act` happen at `time_s`, or now if that is past."""
        entry = Entry(act)
        heappush(self._entries, (max(time_s, self.now_s), next(self._numbers), entry))
        return entry

    def after(self, delay_s: float, act: Callable[[], None]) -> Entry:
        """Let `act` happen so many seconds from now."""
        return self.at(self.now_s + delay_s, act)

    def run(self, until_s: float) -> None:
        """Let everything happen up to `until_s`."""
        while self._entries and self._entries[0][0] <= until_s:
            self.now_s, _, entry = heappop(self._entries)
            if entry.act is not None:
                entry.act()
        self.now_s = until_s
