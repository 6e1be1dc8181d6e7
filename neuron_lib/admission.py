"""Who may run now, who waits, who is refused: one controller per loaded model. Owns the counts; knows no engine."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import accumulate

import anyio
from msgspec import Struct

from neuron_lib.errors import InvalidRequest, Overloaded, OverloadReason, RequestRejected

__all__ = ("AdmissionController", "AdmissionSnapshot", "Place")


class AdmissionSnapshot(Struct, frozen=True, kw_only=True):
    """The counts at one moment: seats taken, and `rejected_*` requests since the model was loaded.

    `queue_depth` are those who have no seat yet, be it that they wait for one or are still being prepared.
    """

    in_flight: int
    queue_depth: int
    rejected_queue_full: int
    rejected_timeout: int


class Place:
    """One request's place in the line, from `AdmissionController.place`."""

    def __init__(self, controller: "AdmissionController", seats: int) -> None:
        self._controller = controller
        self._seats = seats
        self._call: anyio.Event | None = None  # from when it is ready for its seats

    async def take_seat(self) -> None:
        """Wait until the seats are this request's, which they stay until the place is left; it is ready to run.

        Raises `Overloaded` after `max_wait_s`, or what `AdmissionController.close` was told to raise.
        """
        await self._controller._seat(self)

    def expired(self, text: str) -> Overloaded:
        """The refusal, which is counted, of a request that waited too long for anything before its seats."""
        return self._controller._expired(text)


class AdmissionController:
    """`max_in_flight` seats and a first-come line in which at most `max_queue_depth` requests wait for one, none of
    them longer than `max_wait_s` (wire contract §7).

    A request takes its place in the line as it arrives, is prepared there, and then takes one seat for each reply it
    wants. Whoever needs several waits until that many are free, and nobody who came later is seated before; but whoever
    is still being prepared keeps nobody waiting. A newcomer is let in if it would find a seat, or room to wait, once
    all before it are prepared.
    """

    def __init__(self, *, max_in_flight: int, max_queue_depth: int, max_wait_s: float) -> None:
        self.max_in_flight = max_in_flight
        self.max_queue_depth = max_queue_depth
        self.max_wait_s = max_wait_s
        self._in_flight = 0
        self._line: dict[Place, None] = {}  # who has no seats yet, in the order of arrival
        self._refusal: Callable[[], RequestRejected] | None = None
        self._rejected_queue_full = 0
        self._rejected_timeout = 0

    def __repr__(self) -> str:
        return f"<AdmissionController {self._in_flight}/{self.max_in_flight} running, {len(self._line)} waiting>"

    def snapshot(self) -> AdmissionSnapshot:
        """The counts now."""
        return AdmissionSnapshot(
            in_flight=self._in_flight,
            queue_depth=len(self._line),
            rejected_queue_full=self._rejected_queue_full,
            rejected_timeout=self._rejected_timeout,
        )

    def close(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse everybody who waits or still comes with `refusal()`, and who is being prepared once it wants a seat;
        what runs goes on. The first close counts.
        """
        if self._refusal is None:
            self._refusal = refusal
        for place in self._line:
            if place._call is not None:
                place._call.set()

    @contextmanager
    def place(self, seats: int = 1) -> Iterator[Place]:
        """Stand in the line, and then hold that many seats, until the block ends.

        Raises at once: `InvalidRequest` for more seats than there are, `Overloaded` if too many are in the line, or
        what `close` was told to raise.
        """
        self._refuse_if_hopeless(seats)
        place = Place(self, seats)
        self._line[place] = None
        try:
            yield place
        finally:
            if place in self._line:
                del self._line[place]
            else:
                self._in_flight -= seats
            self._seat_next()

    @asynccontextmanager
    async def admit(self, seats: int = 1) -> AsyncIterator[None]:
        """`place` and `Place.take_seat` in one, for a request with nothing to prepare: hold the seats in the block."""
        with self.place(seats) as place:
            await place.take_seat()
            yield

    def _refuse_if_hopeless(self, seats: int) -> None:
        if not 1 <= seats <= self.max_in_flight:
            text = f"n: {seats} replies to one request, where this model makes 1 to {self.max_in_flight} at once"
            raise InvalidRequest(text, param="n")
        if self._refusal is not None:
            raise self._refusal()
        if self._waiting_with(seats) > self.max_queue_depth:
            self._rejected_queue_full += 1
            pending = self._in_flight + len(self._line)
            text = (
                f"{self._in_flight} of {self.max_in_flight} seats are taken and {len(self._line)} requests wait already"
            )
            raise self._overloaded(text, OverloadReason.QUEUE_FULL, pending=pending)

    def _waiting_with(self, seats: int) -> int:
        """How many will wait with a newcomer for `seats` when all are prepared and nobody has left."""
        free = self.max_in_flight - self._in_flight
        needs = [*(place._seats for place in self._line), seats]
        return sum(seats_so_far > free for seats_so_far in accumulate(needs))

    async def _seat(self, place: Place) -> None:
        if place not in self._line:
            return
        if self._refusal is not None:
            raise self._refusal()
        place._call = anyio.Event()
        self._seat_next()
        if place in self._line:
            with anyio.move_on_after(self.max_wait_s):
                await place._call.wait()
        if place not in self._line:
            return
        if self._refusal is not None:
            raise self._refusal()
        seats = place._seats
        raise self._expired(
            f"{'no seat' if seats == 1 else f'not {seats} seats'} became free within {self.max_wait_s:g} s"
        )

    def _seat_next(self) -> None:
        """Hand free seats to those who are ready for them at once, so that no newcomer can jump the queue."""
        ready = [(place, place._call) for place in self._line if place._call is not None]
        for place, call in ready:
            if self._refusal is not None or self._in_flight + place._seats > self.max_in_flight:
                return
            del self._line[place]
            self._in_flight += place._seats
            call.set()

    def _expired(self, text: str) -> Overloaded:
        self._rejected_timeout += 1
        pending = self.max_in_flight + self.max_queue_depth
        return self._overloaded(text, OverloadReason.WAIT_EXPIRED, pending=pending)

    def _overloaded(self, text: str, reason: OverloadReason, *, pending: int) -> Overloaded:
        # Twice the requests in front of a newcomer, in seconds, two minutes at most (wire contract §7).
        retry_after_s = min(2 * (max(0, pending - self.max_in_flight) + 1), 120)
        return Overloaded(
            text, reason=reason, retry_after_s=retry_after_s, in_flight=self._in_flight, queue_depth=len(self._line)
        )
