"""Who may run now, who waits, who is refused: one controller per loaded model. Owns the counts; knows no engine."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from msgspec import Struct

from neuron_lib.errors import Overloaded, OverloadReason, RequestRejected

__all__ = ("AdmissionController", "AdmissionSnapshot")


class AdmissionSnapshot(Struct, frozen=True, kw_only=True):
    """The counts at one moment; `rejected_*` since the model was loaded."""

    in_flight: int
    queue_depth: int
    rejected_queue_full: int
    rejected_timeout: int


@dataclass(slots=True, eq=False)
class _Waiter:
    decided: anyio.Event = field(default_factory=anyio.Event)
    has_seat: bool = False


class AdmissionController:
    """`max_in_flight` seats and a first-come queue of at most `max_queue_depth`, in which nobody waits longer than
    `max_wait_s` (wire contract §7).
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

    def refuse_if_hopeless(self) -> None:
        """Raise what `admit` would raise at once, so that nothing is prepared for a request that cannot even wait."""
        if self._refusal is not None:
            raise self._refusal()
        waiting = len(self._queue)
        if self._in_flight >= self.max_in_flight and waiting >= self.max_queue_depth:
            self._rejected_queue_full += 1
            text = f"all {self.max_in_flight} seats are taken and {waiting} requests wait already"
            raise self._overloaded(text, OverloadReason.QUEUE_FULL, pending=self._in_flight + waiting)

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Hold a seat for the length of the block. Raises `Overloaded`, or what `close` was told to raise."""
        self.refuse_if_hopeless()
        if self._in_flight < self.max_in_flight:
            self._in_flight += 1
        else:
            await self._wait_for_seat()
        try:
            yield
        finally:
            self._vacate()

    async def _wait_for_seat(self) -> None:
        waiter = _Waiter()
        self._queue.append(waiter)
        try:
            with anyio.move_on_after(self.max_wait_s):
                await waiter.decided.wait()
        except BaseException:
            # Cancelled. The seat may have been given to it in the very same moment.
            if waiter.has_seat:
                self._vacate()
            raise
        finally:
            if not waiter.has_seat:
                self._queue.remove(waiter)
        if waiter.has_seat:
            return
        if self._refusal is not None:
            raise self._refusal()
        self._rejected_timeout += 1
        text = f"no seat became free within {self.max_wait_s:g} s"
        pending = self.max_in_flight + self.max_queue_depth
        raise self._overloaded(text, OverloadReason.WAIT_EXPIRED, pending=pending)

    def _vacate(self) -> None:
        """Hand the seat to the next in line; it is never free in between, so nobody can jump the queue."""
        if self._queue and self._refusal is None:
            waiter = self._queue.popleft()
            waiter.has_seat = True
            waiter.decided.set()
        else:
            self._in_flight -= 1

    def _overloaded(self, text: str, reason: OverloadReason, *, pending: int) -> Overloaded:
        # Twice the requests in front of a newcomer, in seconds, two minutes at most (wire contract §7).
        retry_after_s = min(2 * (max(0, pending - self.max_in_flight) + 1), 120)
        return Overloaded(
            text, reason=reason, retry_after_s=retry_after_s, in_flight=self._in_flight, queue_depth=len(self._queue)
        )
