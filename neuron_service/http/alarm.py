"""One timer for a connection."""

import asyncio
from collections.abc import Callable
from math import inf

__all__ = ("Alarm",)


class Alarm:
    """Calls `ring` at the time that was set, or earlier. Belongs to one connection, in the thread of its loop.

    The timer is reused: it is never moved to a later time. It fires early, and `ring` sets it again. Most requests end
    before it fires, so this avoids one timer per request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, deadline_s: float) -> None:
        """Ring at `deadline_s` by the loop's clock, or earlier. Never if it is infinite and no timer runs."""
        if deadline_s == inf or (self._timer is not None and self._timer.when() <= deadline_s):
            return
        self.cancel()
        self._timer = self._loop.call_at(deadline_s, self._fire)

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._ring()
