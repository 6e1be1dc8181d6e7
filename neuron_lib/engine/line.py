"""The waiting line of one engine: prepared requests that have not begun, in order of arrival. Pure.

The line keeps the order; a `Policy` decides whose turn it is.
"""

from bisect import insort
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from neuron_lib.engine import sequence as engine
from neuron_lib.engine.protocol import RequestClass

__all__ = ("Line", "Policy", "Request", "first_come")


@dataclass(slots=True, frozen=True, eq=False)
class Request:
    """A request whose prompt is prepared, from its place in the line until its last sequence has ended.

    `number` is greater the later the request came. The request begins when `seats` seats are free at once.
    `arrived_s` is the time of its arrival, in seconds of the engine's clock. `request_id` is that of its `Submit`.
    """

    number: int
    sequences: tuple[engine.Sequence, ...]
    seats: int = 1
    class_: RequestClass = field(default_factory=RequestClass)
    arrived_s: float = 0.0
    request_id: str = ""


Policy: TypeAlias = Callable[[Sequence[Request], Collection[Request], int, float], Request | None]
"""`(waiting, running, free_seats, now_s)` → which of those that wait begins next, or None if nobody may.

`waiting` has at least one request, in order of arrival. Whoever is returned needs at most `free_seats` seats.
"""


def first_come(
    waiting: Sequence[Request], _running: Collection[Request], free_seats: int, _now_s: float
) -> Request | None:
    """The oldest, once all of its seats are free: nobody who came later begins before."""
    return waiting[0] if waiting[0].seats <= free_seats else None


class Line:
    """Requests that wait to begin, one line for each engine. Iteration is in order of arrival."""

    def __init__(self, policy: Policy = first_come) -> None:
        self._policy: Final = policy
        self._waiting: list[Request] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._waiting)

    def enter(self, request: Request) -> None:
        """Let a request wait. It stands before all that came later, also before those that were prepared sooner."""
        insort(self._waiting, request, key=lambda waiting: waiting.number)

    def leave(self, number: int) -> None:
        """Take a request out, because it begins or is given up; a number that is not in the line is ignored."""
        self._waiting = [request for request in self._waiting if request.number != number]

    def next(self, running: Collection[Request], *, free_seats: int, now_s: float) -> Request | None:
        """Whose turn it is now. The request stays in the line until `leave` is called."""
        return self._policy(self._waiting, running, free_seats, now_s) if self._waiting else None
