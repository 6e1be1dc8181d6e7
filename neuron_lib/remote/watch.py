"""When a server that is looked at again and again counts as lost. Pure: times are arguments, in seconds."""

from dataclasses import dataclass
from typing import Final

from neuron_lib.remote.look import Look

__all__ = ("Watch",)

_LOOKS: Final = 2
"""A connection may fail once for reasons of its own."""
_GONE: Final = frozenset({Look.AWAY, Look.REFUSES})


@dataclass(slots=True)
class Watch:
    """The looks at one server. Two in a row that show it away or refusing are its loss, and so is `limit_s` without a
    good one.

    `last_good_s` is the time of the last good look.
    """

    limit_s: float
    last_good_s: float
    _away: int = 0

    def take(self, look: Look, *, now_s: float, is_heard: bool = False) -> bool:
        """Take a look in. Returns whether the server is lost.

        `is_heard` says that a reply is under way, of which a piece has just come. Then the server is not lost, whatever
        the look shows: the loss would break the reply off.
        """
        is_gone = look in _GONE
        if look is Look.GOOD or is_heard:
            self.last_good_s, self._away = now_s, int(is_gone)
            return False
        self._away = self._away + 1 if is_gone else 0
        return self._away >= _LOOKS or now_s - self.last_good_s >= self.limit_s

    @property
    def is_in_doubt(self) -> bool:
        """Whether the last look showed the server away or refusing, so that the next one should come soon."""
        return self._away > 0
