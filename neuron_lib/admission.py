"""Who may run now, who waits, who is refused: one controller per loaded model. Owns the counts; knows no engine."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from msgspec import Struct

from neuron_lib.errors import InvalidRequest, Overloaded, OverloadReason, RequestRejected

__all__ = ("AdmissionController", "AdmissionSnapshot")


class AdmissionSnapshot(Struct, frozen=True, kw_only=True):
    """The counts at one moment: seats taken, requests waiting, and `rejected_*` requests since the model was loaded."""

    in_flight: int
    queue_depth: int
    rejected_queue_full: int
    rejected_timeout: int


@dataclass(slots=True, eq=False)
class _Waiter:
    seats: int
    decided: anyio.Event = field(default_factory=anyio.Event)
    is_seated: bool = False


class AdmissionController:
    """`max_in_flight` seats and a first-come queue of at most `max_queue_depth` requests, in which nobody waits longer
    than `max_wait_s` (wire contract §7).

    A request takes one seat for each reply it wants. Whoever needs several waits until that many are free, and nobody
    behind it is seated before.
    """

    def __init__(self, *, max_in_flight: int, max_queue_depth: int, max_wait_s: float) -> None:
        self.max_in_flight = max_in_flight
        self.max_queue_depth = max_queue_depth
        self.max_wait_s = max_wait_s
        self._in_flight = 0
        self._queue: deque[_Waiter] = deque()
        self._refusal: Callable[[], RequestRejected] | None = None
        self._rejected_queue_full = 0
        self._rejected_timeout = 0

    def __repr__(self) -> str:
        return f"<AdmissionController {self._in_flight}/{self.max_in_flight} running, {len(self._queue)} waiting>"

    def snapshot(self) -> AdmissionSnapshot:
        """The counts now."""
        return AdmissionSnapshot(
            in_flight=self._in_flight,
            queue_depth=len(self._queue),
            rejected_queue_full=self._rejected_queue_full,
            rejected_timeout=self._rejected_timeout,
        )

    def close(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse everybody who waits or still comes with `refusal()`; what runs goes on. The first close counts."""
        if self._refusal is None:
            self._refusal = refusal
        for waiter in self._queue:
            waiter.decided.set()

    def refuse_if_hopeless(self, seats: int = 1) -> None:
        """Raise what `admit` would raise at once, so that nothing is prepared for a request that cannot even wait."""
        if not 1 <= seats <= self.max_in_flight:
            text = f"n: {seats} replies to one request, where this model makes 1 to {self.max_in_flight} at once"
            raise InvalidRequest(text, param="n")
        if self._refusal is not None:
            raise self._refusal()
        waiting = len(self._queue)
        if not self._has_room(seats) and waiting >= self.max_queue_depth:
            self._rejected_queue_full += 1
            text = f"{self._in_flight} of {self.max_in_flight} seats are taken and {waiting} requests wait already"
            raise self._overloaded(text, OverloadReason.QUEUE_FULL, pending=self._in_flight + waiting)

    @asynccontextmanager
    async def admit(self, seats: int = 1) -> AsyncIterator[None]:
        """Hold that many seats for the length of the block.

        Raises `InvalidRequest` for more than there are, `Overloaded`, or what `close` was told to raise.
        """
        self.refuse_if_hopeless(seats)
        if self._has_room(seats):
            self._in_flight += seats
        else:
            await self._wait_for_seats(seats)
        try:
            yield
        finally:
            self._vacate(seats)

    def _has_room(self, seats: int) -> bool:
        """Whether a newcomer needs not wait."""
        return not self._queue and self._in_flight + seats <= self.max_in_flight

    async def _wait_for_seats(self, seats: int) -> None:
        waiter = _Waiter(seats)
        self._queue.append(waiter)
        try:
            with anyio.move_on_after(self.max_wait_s):
                await waiter.decided.wait()
        except BaseException:
            # Cancelled. The seats may have been given to it in the very same moment.
            if waiter.is_seated:
                self._vacate(seats)
            raise
        finally:
            if not waiter.is_seated:
                self._queue.remove(waiter)
                self._seat_waiters()  # it may have stood before others who need less
        if waiter.is_seated:
            return
        if self._refusal is not None:
            raise self._refusal()
        self._rejected_timeout += 1
        text = f"{'no seat' if seats == 1 else f'not {seats} seats'} became free within {self.max_wait_s:g} s"
        pending = self.max_in_flight + self.max_queue_depth
        raise self._overloaded(text, OverloadReason.WAIT_EXPIRED, pending=pending)

    def _vacate(self, seats: int) -> None:
        self._in_flight -= seats
        self._seat_waiters()

    def _seat_waiters(self) -> None:
        """Hand free seats to the next in line at once, so that no newcomer can jump the queue."""
        while self._queue and self._refusal is None and self._in_flight + self._queue[0].seats <= self.max_in_flight:
            waiter = self._queue.popleft()
            self._in_flight += waiter.seats
            waiter.is_seated = True
            waiter.decided.set()

    def _overloaded(self, text: str, reason: OverloadReason, *, pending: int) -> Overloaded:
        # Twice the requests in front of a newcomer, in seconds, two minutes at most (wire contract §7).
        retry_after_s = min(2 * (max(0, pending - self.max_in_flight) + 1), 120)
        return Overloaded(
            text, reason=reason, retry_after_s=retry_after_s, in_flight=self._in_flight, queue_depth=len(self._queue)
        )
