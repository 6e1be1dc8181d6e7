"""The order of work on prompts: what is large does not hold up what is small. Decides, but for its waiting, purely."""

import heapq
from collections.abc import Callable
from threading import Condition
from typing import Final, Generic, TypeVar

__all__ = ("Lane",)

_BYTES_PER_S: Final = 1 << 16
"""A job goes before one that is this much larger and came a second earlier. So nothing waits for ever."""

Job = TypeVar("Job")


class Lane(Generic[Job]):
    """The jobs of one thread, at most one for each request.

    Its methods are called with the lock of `changed` held, so lanes that share it change together. `done` and `waiting`
    may be read without it, to show.
    """

    def __init__(self, name: str, changed: Condition, *, clock: Callable[[], float]) -> None:
        """`name` says what a job is, in the words of an operator. `clock` is in seconds."""
        self.name: Final = name
        self.current: int | None = None
        """The request that is worked on."""
        self.done = 0
        self._changed: Final = changed
        self._clock: Final = clock
        self._jobs: dict[int, Job] = {}
        self._order: list[tuple[float, int]] = []  # may hold requests that were dropped

    @property
    def waiting(self) -> int:
        """Jobs that are not done, and that which is worked on."""
        return len(self._jobs) + (self.current is not None)

    def put(self, request: int, job: Job, *, size_bytes: int) -> None:
        """Let a job wait for its turn."""
        self._jobs[request] = job
        heapq.heappush(self._order, (self._clock() + size_bytes / _BYTES_PER_S, request))
        self._changed.notify_all()

    def drop(self, request: int) -> bool:
        """Forget a job that waits; False if none does."""
        return self._jobs.pop(request, None) is not None

    def leave(self) -> None:
        """The current job is done."""
        if self.current is not None:
            self.current = None
            self.done += 1

    def take(self) -> tuple[int, Job]:
        """Wait for the next job, which becomes the current one. Gives the lock up while it waits."""
        while True:
            while self._order:
                _, request = heapq.heappop(self._order)
                if request in self._jobs:
                    self.current = request
                    return request, self._jobs.pop(request)
            self._changed.wait()
