"""What a signal to stop means, by the time at which it comes. Pure: the time is an argument."""

from enum import Enum, auto
from typing import Final

__all__ = ("Meaning", "StopSignals")

_SAME_REQUEST_S: Final = 0.2
"""Seconds. Signals within this time of the first belong to the same request to stop. A Ctrl-C reaches a whole process
group, and a wrapper may pass it on as well. A service manager may send two kinds of signal.
"""


class Meaning(Enum):
    """What to do about a signal to stop."""

    DRAIN = auto()
    """Begin an orderly stop."""
    SAME = auto()
    """Nothing. The signal belongs to the first."""
    HURRY = auto()
    """End at once. The sender does not want to wait."""


class StopSignals:
    """The signals to stop that have come so far. Lives as long as the process."""

    def __init__(self) -> None:
        self._first_s: float | None = None

    def hear(self, *, now_s: float) -> Meaning:
        """The meaning of a signal that comes at `now_s`, in seconds of a monotonic clock."""
        if self._first_s is None:
            self._first_s = now_s
            return Meaning.DRAIN
        return Meaning.SAME if now_s - self._first_s < _SAME_REQUEST_S else Meaning.HURRY
