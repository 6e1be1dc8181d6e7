"""Bounds how many fetches run at once. The others wait in the order in which they came. Fetches nothing itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

__all__ = ("FetchLine",)


class FetchLine:
    """A number of places for fetches, and a first-come line for those that find no free place.

    Use it as `async with line.place(on_wait):`. Lives as long as its store, on one event loop.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[anyio.Event, Callable[[int], None]] = {}

    def __repr__(self) -> str:
        return f"<FetchLine {self._free} free, {len(self._waiting)} waiting>"

    @asynccontextmanager
    async def place(self, on_wait: Callable[[int], None]) -> AsyncIterator[None]:
        """Hold a place within the block.

        If no place is free, `on_wait` is called with the position in the line, at once and after each change: 1 for the
        next, 0 when the place is taken. A caller that is cancelled leaves the line.
        """
        await self._take(on_wait)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, on_wait: Callable[[int], None]) -> None:
        if self._free:
            self._free -= 1
            return
        turn = anyio.Event()
        self._waiting[turn] = on_wait
        on_wait(len(self._waiting))
        try:
            await turn.wait()
        except BaseException:
            if turn in self._waiting:
                del self._waiting[turn]
                self._tell_positions()
            else:  # cancelled at the moment in which it got the place
                self._give_back()
            raise
        on_wait(0)

    def _give_back(self) -> None:
        """Give the place to the next in the line at once, so that no newcomer is served before."""
        if not self._waiting:
            self._free += 1
            return
        turn = next(iter(self._waiting))
        del self._waiting[turn]
        turn.set()
        self._tell_positions()

    def _tell_positions(self) -> None:
        for position, on_wait in enumerate(self._waiting.values(), start=1):
            on_wait(position)
