"""When a server that is looked at again and again counts as lost. Pure: times are arguments, in seconds."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

__all__ = ("Look", "Watch")

_LOOKS: Final = 2
"""A connection may fail once for reasons of its own."""


class Look(Enum):
    """What a look at a server has shown."""

    GOOD = auto()
    """It has the model."""
    AWAY = auto()
    """It cannot be reached, does not accept the key, or has the model no more."""
    UNWELL = auto()
    """It answers, but that it is busy or has failed; or it gives no answer in time."""


@dataclass(slots=True)
class Watch:
    """The looks at one server. It is lost after two in a row that show it away, and after `limit_s` without a good one.

    `last_good_s` is the time of the last good look.
    """

    limit_s: float
    last_good_s: float
    _away: int = 0

    def take(self, look: Look, *, now_s: float) -> bool:
        """Take a look in. Returns whether the server is lost."""
        if look is Look.GOOD:
            self.last_good_s, self._away = now_s, 0
            return False
        self._away = self._away + 1 if look is Look.AWAY else 0
        return self._away >= _LOOKS or now_s - self.last_good_s >= self.limit_s

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last look was not good, so that the next one should come soon."""
        return self._away > 0
