"""How many requests a model takes in, and how many wait and run: one controller for each loaded model.

The controller counts and refuses. Who begins when is decided by the engine, which owns the waiting line; the owner of a
`Place` tells the controller what the engine says. Nothing here waits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Final

from msgspec import Struct

from neuron_lib.errors import InvalidRequest, Overloaded, OverloadReason, RequestRejected

__all__ = ("AdmissionController", "AdmissionSnapshot", "Place")


class AdmissionSnapshot(Struct, frozen=True, kw_only=True):
    """The counts at one moment: seats taken, and `rejected_*` requests since the model was loaded.

    `queue_depth` counts the requests that have not begun: they wait, or their prompts are being prepared.
    """

    in_flight: int
    queue_depth: int
    rejected_queue_full: int
    rejected_timeout: int


class Place:
    """One request from its arrival to its end, from `AdmissionController.place`: it waits, then holds its seats."""

    def __init__(
        self, controller: "AdmissionController", *, number: int, seats: int, refuse: Callable[[RequestRejected], object]
    ) -> None:
        self.number: Final = number
        """Greater the later the request came."""
        self._controller = controller
        self._seats = seats
        self._held = 0
        self._has_begun = False
        self._on_refused = refuse
        self._refusal: RequestRejected | None = None

    def refuse(self, refusal: RequestRejected) -> None:
        """The admission is closed. Whoever has begun is not refused any more, even while it waits once more."""
        if not self._has_begun:
            self._refusal = refusal
            self._on_refused(refusal)

    @property
    def refusal(self) -> RequestRejected | None:
        """Set when the admission was closed before the request began."""
        return self._refusal

    def raise_if_refused(self) -> None:
        """Raise the refusal, if the admission was closed before the request began."""
        if self._refusal is not None:
            raise self._refusal

    @property
    def waits_for_seats(self) -> bool:
        """Whether it waits, and the seats of all who run and came before it leave too few for it."""
        return not self._held and self._controller._is_full_before(self)

    def begin(self) -> None:
        """The request has begun: it holds its seats."""
        self._held, self._has_begun = self._seats, True

    def wait_again(self) -> None:
        """The engine that had begun the request is gone. It waits once more, in its old place."""
        self._held = 0

    def end_reply(self) -> None:
        """One reply is complete, and its seat is free, whether or not anybody has read the reply."""
        if self._held > 1:
            self._held -= 1
        else:
            self.end()

    def end(self) -> None:
        """The request is complete: all its seats are free."""
        self._held = 0
        self._controller._forget(self)

    def expired(self, text: str) -> Overloaded:
        """The refusal of a request that has waited too long, which this counts."""
        return self._controller._expired(text)


class AdmissionController:
    """Lets at most `max_queue_depth` requests wait while `max_in_flight` seats are taken.

    A request takes one seat for each reply. A newcomer is let in if it would find its seats, or room to wait, were all
    before it ready to begin. `max_wait_s` is how long a request may wait for its seats; its owner looks at the clock.
    """

    def __init__(self, *, max_in_flight: int, max_queue_depth: int, max_wait_s: float) -> None:
        self.max_in_flight = max_in_flight
        self.max_queue_depth = max_queue_depth
        self.max_wait_s = max_wait_s
        self._places: dict[Place, None] = {}  # of those that wait or run, in the order of arrival
        self._arrived = 0
        self._refusal: Callable[[], RequestRejected] | None = None
        self._rejected_queue_full = 0
        self._rejected_timeout = 0

    def __repr__(self) -> str:
        return f"<AdmissionController {self._in_flight}/{self.max_in_flight} running, {len(self._waiting())} waiting>"

    def snapshot(self) -> AdmissionSnapshot:
        """The counts now."""
        return AdmissionSnapshot(
            in_flight=self._in_flight,
            queue_depth=len(self._waiting()),
            rejected_queue_full=self._rejected_queue_full,
            rejected_timeout=self._rejected_timeout,
        )

    def close(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse with `refusal()` everybody who has not begun, and everybody who comes; what has begun goes on.

        The first close counts.
        """
        if self._refusal is not None:
            return
        self._refusal = refusal
        for place in self._waiting():
            place.refuse(refusal())

    @contextmanager
    def place(self, seats: int = 1, *, refuse: Callable[[RequestRejected], object]) -> Iterator[Place]:
        """Take a request in until the block ends. `refuse` is called if the admission is closed before it has begun.

        Raises at once: `InvalidRequest` for more seats than there are, `Overloaded` if too many wait, or what `close`
        was told to raise.
        """
        self._refuse_if_hopeless(seats)
        self._arrived += 1
        place = Place(self, number=self._arrived, seats=seats, refuse=refuse)
        self._places[place] = None
        try:
            yield place
        finally:
            self._forget(place)

    def _forget(self, place: Place) -> None:
        self._places.pop(place, None)

    @property
    def _in_flight(self) -> int:
        return sum(place._held for place in self._places)

    def _waiting(self) -> list[Place]:
        return [place for place in self._places if not place._held]

    def _refuse_if_hopeless(self, seats: int) -> None:
        if not 1 <= seats <= self.max_in_flight:
            text = f"n: {seats} replies to one request, where this model makes 1 to {self.max_in_flight} at once"
            raise InvalidRequest(text, param="n")
        if self._refusal is not None:
            raise self._refusal()
        in_flight, waiting = self._in_flight, self._waiting()
        free = self.max_in_flight - in_flight
        needs = accumulate([*(place._seats for place in waiting), seats])
        if sum(seats_so_far > free for seats_so_far in needs) > self.max_queue_depth:
            self._rejected_queue_full += 1
            text = f"{in_flight} of {self.max_in_flight} seats are taken and {len(waiting)} requests wait already"
            raise self._overloaded(text, OverloadReason.QUEUE_FULL, pending=in_flight + len(waiting))

    def _is_full_before(self, place: Place) -> bool:
        before = sum(other._seats for other in self._waiting() if other.number < place.number)
        return self._in_flight + before + place._seats > self.max_in_flight

    def _expired(self, text: str) -> Overloaded:
        self._rejected_timeout += 1
        pending = self.max_in_flight + self.max_queue_depth
        return self._overloaded(text, OverloadReason.WAIT_EXPIRED, pending=pending)

    def _overloaded(self, text: str, reason: OverloadReason, *, pending: int) -> Overloaded:
        # Two seconds for each request in front of a newcomer, two minutes at most.
        retry_after_s = min(2 * (max(0, pending - self.max_in_flight) + 1), 120)
        return Overloaded(
            text,
            reason=reason,
            retry_after_s=retry_after_s,
            in_flight=self._in_flight,
            queue_depth=len(self._waiting()),
        )
