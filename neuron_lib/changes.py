"""The signal that something has changed, for any number of tasks that wait for it.

The class holds no state of its own: whoever owns the state calls `notify` after each change, and whoever waits looks at
the state again.
"""

from collections.abc import Callable

import anyio
from anyio.lowlevel import checkpoint

__all__ = ("Changes",)


class Changes:
    """Wakes all tasks that wait, once for each call of `notify`.

    Belongs to one event loop. May be made before that loop runs. Several changes between two looks of a waiting task
    are one change for this task.
    """

    def __init__(self) -> None:
        self._next = anyio.Event()

    @property
    def next(self) -> anyio.Event:
        """The event that the next call of `notify` sets.

        Take the event before you look at the state, and wait for it afterwards: no change is missed in between,
        whatever else runs meanwhile.
        """
        return self._next

    def notify(self) -> None:
        """Tell that the state has changed. Never waits. The tasks run when the caller next lets others run."""
        changed, self._next = self._next, anyio.Event()
        changed.set()

    async def wait(self) -> None:
        """Wait for the next call of `notify`. Earlier calls do not count."""
        await self._next.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()` is true. Returns at once if it is true now; `holds` is called after each change."""
        while not holds():
            await self._next.wait()

    def __aiter__(self) -> "_Follower":
        """Go through the loop's body once at once, and once more after each change.

        A change during the body is not missed: the body runs again at once. The loop has no end of its own.
        """
        return _Follower(self)


class _Follower:
    """One `async for` over changes. Needs no closing: it may be left at any time."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._unseen: anyio.Event | None = None  # None before the first round

    def __aiter__(self) -> "_Follower":
        return self

    async def __anext__(self) -> None:
        if self._unseen is None:
            await checkpoint()
        else:
            await self._unseen.wait()
        self._unseen = self._changes.next
