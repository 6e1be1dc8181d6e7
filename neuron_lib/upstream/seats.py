"""The seats of a model whose engine has no waiting line of ours, and the line of those that wait for them.

The rules of the line are those of our own engine (`neuron_lib.engine.line`): callers take turns.
"""

from collections import Counter

import anyio

from neuron_lib.admission import Place
from neuron_lib.engine.line import Line, Request
from neuron_lib.engine.protocol import RequestClass

__all__ = ("Seats",)


class Seats:
    """The seats of one model. Whoever took some gives them back."""

    def __init__(self, count: int, *, max_wait_s: float) -> None:
        """There are `count` seats. A request waits at most `max_wait_s` for its seats."""
        self._count = count
        self._held: Counter[str] = Counter()  # seats, by caller
        self._max_wait_s = max_wait_s
        self._line = Line()
        self._called: dict[int, tuple[Place, anyio.Event]] = {}  # those in the line, by number

    async def take(self, place: Place, seats: int) -> None:
        """Wait until the seats are this place's. Raises `Overloaded` after `max_wait_s`, and the place's refusal."""
        place.raise_if_refused()
        event = anyio.Event()
        self._called[place.number] = place, event
        self._line.enter(
            Request(place.number, (), seats, RequestClass(principal=place.caller, most_seats=place.most_seats))
        )
        self._call_next()
        is_seated = False
        try:
            if not event.is_set():
                with anyio.move_on_after(self._max_wait_s):
                    await event.wait()
            is_seated = event.is_set() and place.refusal is None
        finally:
            if not is_seated:
                self._leave(place, seats)
        if not is_seated:
            place.raise_if_refused()
            raise place.expired(f"no seat became free within {self._max_wait_s:g} s")

    def _leave(self, place: Place, seats: int) -> None:
        self._line.leave(place.number)
        if self._called.pop(place.number, None) is None:  # it had its seats already
            self._free(place.caller, seats)
        self._call_next()

    def wake(self, number: int) -> None:
        """Let somebody in the line look whether it is refused."""
        if number in self._called:
            self._called[number][1].set()

    def give_back(self, caller: str, seats: int) -> None:
        """A reply has ended; its seats go to whoever is next."""
        self._free(caller, seats)
        self._call_next()

    def _free(self, caller: str, seats: int) -> None:
        self._held[caller] -= seats
        if not self._held[caller]:
            del self._held[caller]  # callers come and go without an end

    def _call_next(self) -> None:
        while (request := self._line.next(self._held, free_seats=self._count - self._held.total())) is not None:
            self._line.begin(request)
            place, event = self._called.pop(request.number)
            self._held[place.caller] += request.seats
            place.begin()
            event.set()
