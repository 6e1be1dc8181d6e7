"""What a signal to stop means, by when it comes. Pure: it is told the time and ends nothing."""

from enum import Enum, auto
from typing import Final

__all__ = ("Meaning", "StopSignals")

_ONE_WISH_S: Final = 0.2
"""A Ctrl-C reaches a whole process group and may be passed on by a wrapper, and a service manager may send two kinds of
signal, so what comes this soon after the first was sent by the same wish."""


class Meaning(Enum):
    """What to do about a signal to stop."""

    DRAIN = auto()
    """Begin an orderly end."""
    SAME = auto()
    """Nothing: it belongs to the first."""
    HURRY = auto()
    """End at once: somebody does not want to wait."""


class StopSignals:
    """The signals to stop that have come, in order."""

    def __init__(self) -> None:
        self._first_s: float | None = None

    def hear(self, *, now_s: float) -> Meaning:
        """Take one that comes at `now_s`, in seconds of a clock that never goes back."""
        if self._first_s is None:
            self._first_s = now_s
            return Meaning.DRAIN
        return Meaning.SAME if now_s - self._first_s < _ONE_WISH_S else Meaning.HURRY
