"""The order of work on prompts: a large prompt does not hold up small ones, nor one principal the others. Pure, except
that `take` waits.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from threading import Condition
from typing import Final, Generic, TypeVar

__all__ = ("Lane",)

_MOST_OVERTAKING: Final = 3
"""At most so many smaller jobs are taken in a row before the oldest, so that no job waits for ever."""

Job = TypeVar("Job")


class Lane(Generic[Job]):
    """The jobs of one thread, at most one for each request.

    All methods must be called with the lock of `changed` held; lanes that share the lock change together. `done` and
    `waiting` may be read without it, to show them.
    """

    def __init__(self, name: str, changed: Condition) -> None:
        """`name` says to an operator what a job is, such as "a prompt"."""
        self.name: Final = name
        self.current: int | None = None
        """The request of the job that is being done; None while there is none."""
        self.done: int = 0
        self._changed: Final = changed
        self._jobs: dict[int, tuple[int, Job]] = {}  # by request, each with its number, in the order of arrival
        self._callers: dict[int, str] = {}  # of those jobs that are a principal's
        self._numbers: Final = count()
        self._sizes: list[tuple[int, int, int]] = []  # a heap of size, number and request; some of its jobs may be gone
        self._overtaking = 0

    @property
    def waiting(self) -> int:
        """Jobs that are not done, the current one included."""
        return len(self._jobs) + (self.current is not None)

    @property
    def jobs(self) -> Iterator[Job]:
        """The jobs that wait, in the order of arrival."""
        return (job for _, job in self._jobs.values())

    @property
    def smallest(self) -> int | None:
        """The size of the job that waits and is smallest, as it is counted; None if none does."""
        while self._sizes and not self._waits(*self._sizes[0][1:]):
            heapq.heappop(self._sizes)
        return self._sizes[0][0] if self._sizes else None

    def put(self, request: int, job: Job, *, size: int, caller: str = "") -> None:
        """Let a job wait. The smaller its `size`, the sooner it is taken.

        The second job of a principal that waits counts as twice as large, the third as three times, and so on. `caller`
        names the principal, "" is nobody in particular.
        """
        number = next(self._numbers)
        self._jobs[request] = number, job
        if caller:
            self._callers[request] = caller
            size *= sum(other == caller for other in self._callers.values())
        heapq.heappush(self._sizes, (size, number, request))
        self._changed.notify_all()

    def drop(self, request: int) -> bool:
        """Forget a job that waits; False if none does."""
        self._callers.pop(request, None)
        return self._jobs.pop(request, None) is not None

    def leave(self) -> None:
        """The current job is done."""
        if self.current is not None:
            self.current = None
            self.done += 1

    def take(self) -> tuple[int, Job]:
        """Wait for the next job, and make it the current one. The lock is free while this waits."""
        while self.smallest is None:
            self._changed.wait()
        oldest, smallest = next(iter(self._jobs)), self._sizes[0][-1]
        is_overtaking = smallest != oldest and self._overtaking < _MOST_OVERTAKING
        self._overtaking = self._overtaking + 1 if is_overtaking else 0
        request = self.current = smallest if is_overtaking else oldest
        self._callers.pop(request, None)
        return request, self._jobs.pop(request)[1]

    def _waits(self, number: int, request: int) -> bool:
        return request in self._jobs and self._jobs[request][0] == number
