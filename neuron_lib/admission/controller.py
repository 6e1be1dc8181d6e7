"""The requests of one model, counted from their arrival to the moment at which the engine has let go of them.

The controller counts and refuses. Who begins when is decided by the engine, which owns the waiting line; the owner of a
`Place` tells the controller what the engine says. Nothing here waits.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from neuron_lib.admission.capacity import Capacity, Need
from neuron_lib.admission.rules import (
    ANONYMOUS,
    AdmissionRules,
    Standing,
    name_of,
    refusal_at_the_door,
    retry_after_s,
)
from neuron_lib.errors import (
    InvalidRequest,
    KvWaitExpired,
    Overloaded,
    OverloadReason,
    RequestRejected,
    TooLargeForKv,
)
from neuron_lib.types import Principal

__all__ = ("AdmissionController", "AdmissionSnapshot", "Place", "Wait")


_CELLS_RETRY_S: Final = 5
"""A request that did not get its cells may come again after so many seconds: the gateway's contract says so."""


class AdmissionSnapshot(Struct, frozen=True, kw_only=True):
    """The counts at one moment, by their names in `neuron_lib.types.ModelLoad`: seats taken, and `rejected_*` requests
    since the model was loaded.

    `queue_depth` counts the requests that have not begun: they wait, or their prompts are being prepared. `anon_*` are
    those of anonymous callers. `kv_budget_mb` is the memory of all cells in MiB, 0 if that is not known, and
    `kv_available_mb` of those that no running request has reserved.
    """

    in_flight: int
    queue_depth: int
    max_in_flight: int
    max_queue_depth: int
    anon_in_flight: int = 0
    anon_max_in_flight: int = 0
    rejected_queue_full: int = 0
    rejected_timeout: int = 0
    rejected_per_principal: int = 0
    rejected_anon_yield: int = 0
    rejected_kv_timeout: int = 0
    rejected_kv_unservable: int = 0
    kv_budget_mb: int = 0
    kv_available_mb: int = 0


class Wait(Enum):
    """What a request waits for."""

    SEATS = auto()
    """All who run and came before it leave too few."""
    YIELD = auto()
    """Seats are free, and are withheld from anonymous callers."""
    CELLS = auto()
    """Seats are free, and too few cells."""
    ENGINE = auto()
    """There is all that it needs: the engine is in a step."""


class Place:
    """One request from its arrival to its end, from `AdmissionController.place`: it waits, then holds its seats."""

    def __init__(
        self,
        controller: "AdmissionController",
        *,
        number: int,
        seats: int,
        caller: str,
        refuse: Callable[[RequestRejected], object],
    ) -> None:
        self.number: Final = number
        """Greater the later the request came."""
        self.caller: Final = caller
        """Whose request it is; `ANONYMOUS` for nobody in particular."""
        self._controller = controller
        self._seats = seats
        self._cells = 0
        self._held = 0
        self._has_begun = False
        self._is_lingering = False
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
    def most_seats(self) -> int:
        """How many seats all callers of its kind may hold together, this request included."""
        controller = self._controller
        return controller.anonymous_seats if self.caller == ANONYMOUS else controller.rules.max_in_flight

    @property
    def waits_for(self) -> Wait:
        """What the request waits for now. One that has begun waits for its engine alone."""
        return Wait.ENGINE if self._held else self._controller._obstacle(self)

    @property
    def patience_s(self) -> float:
        """How long a request may wait for what it waits for now, in seconds since it was prepared."""
        rules = self._controller.rules
        return rules.kv_max_wait_s if self.waits_for is Wait.CELLS else rules.max_wait_s

    def prepare(self, *, cells: int) -> None:
        """The prompt is read: the request will reserve so many cells when it begins."""
        self._cells = cells

    def begin(self) -> None:
        """The request has begun: it holds its seats and cells."""
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

    @property
    def holds_seats(self) -> bool:
        """Whether it has begun, and not ended."""
        return self._held > 0

    def linger(self) -> None:
        """Nobody wants the request any more, but the engine still works on it. `end` is called when it does not."""
        self._is_lingering = True
        self._on_refused = _nobody_hears

    def end(self) -> None:
        """The request is complete: all its seats and cells are free."""
        self._held = 0
        self._controller._forget(self)

    def fail(self, error: Exception) -> None:
        """The engine has refused the request, or it broke: it is complete."""
        if isinstance(error, TooLargeForKv):
            self._controller._unservable += 1
        self.end()

    def expired(self, text: str) -> Overloaded:
        """The refusal of a request that has waited too long, which this counts."""
        return self._controller._expired(self, text)


class AdmissionController:
    """Counts the requests of one model, and refuses by its `rules` those that are too many.

    A request takes one seat for each reply. `rules.max_wait_s` is how long a request may wait for its seats; its owner
    looks at the clock. `capacity` says what the model has at the moment; None stands for the seats of the rules alone.
    """

    def __init__(self, rules: AdmissionRules, *, capacity: Callable[[], Capacity] | None = None) -> None:
        self.rules: Final = rules
        self._capacity: Final = capacity or (lambda: Capacity(seats=rules.max_in_flight))
        self._places: dict[Place, None] = {}  # of those that wait or run, in the order of arrival
        self._arrived = 0
        self._has_identified = False  # whether anybody identified has ever come
        self._refusal: Callable[[], RequestRejected] | None = None
        self._rejected: Counter[OverloadReason] = Counter()
        self._unservable = 0

    def __repr__(self) -> str:
        running, waiting = _seats_held(self._places), len(self._waiting())
        return f"<AdmissionController {running}/{self.rules.max_in_flight} running, {waiting} waiting>"

    @property
    def anonymous_seats(self) -> int:
        """Seats that anonymous callers may have now, all together."""
        return self.rules.anonymous_seats(has_identified=self._has_identified)

    def snapshot(self) -> AdmissionSnapshot:
        """The counts now."""
        capacity, rejected = self._capacity(), self._rejected
        cells = capacity.cells or 0
        return AdmissionSnapshot(
            in_flight=_seats_held(self._places),
            queue_depth=len(self._waiting()),
            max_in_flight=self.rules.max_in_flight,
            max_queue_depth=self.rules.max_queue_depth,
            anon_in_flight=_seats_held(self._anonymous()),
            anon_max_in_flight=self.anonymous_seats,
            rejected_queue_full=rejected[OverloadReason.QUEUE_FULL],
            rejected_timeout=rejected[OverloadReason.WAIT_EXPIRED],
            rejected_per_principal=rejected[OverloadReason.PRINCIPAL_CAP],
            rejected_anon_yield=rejected[OverloadReason.ANONYMOUS_YIELD],
            rejected_kv_timeout=rejected[OverloadReason.KV_WAIT_EXPIRED],
            rejected_kv_unservable=self._unservable,
            kv_budget_mb=capacity.mib(cells),
            kv_available_mb=capacity.mib(max(0, cells - self._cells_held)),
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
    def place(
        self, seats: int = 1, *, principal: Principal | None = None, refuse: Callable[[RequestRejected], object]
    ) -> Iterator[Place]:
        """Take a request in until the block ends. `refuse` is called if the admission is closed before it has begun.

        Whoever lingers then is counted until `Place.end` is called. Raises at once: `InvalidRequest` for more seats
        than there are, `Overloaded` if too many wait, or what `close` was told to raise.
        """
        caller = name_of(principal)
        self._refuse_if_hopeless(seats, caller)
        self._arrived += 1
        place = Place(self, number=self._arrived, seats=seats, caller=caller, refuse=refuse)
        self._places[place] = None
        try:
            yield place
        finally:
            if not place._is_lingering:
                self._forget(place)

    def _forget(self, place: Place) -> None:
        self._places.pop(place, None)

    # ---------------------------------------------------------------------------------------------------- the counts

    def _waiting(self) -> list[Place]:
        return [place for place in self._places if not place._held]

    def _of(self, caller: str) -> list[Place]:
        return [place for place in self._places if place.caller == caller]

    def _anonymous(self) -> list[Place]:
        return self._of(ANONYMOUS)

    @property
    def _cells_held(self) -> int:
        return sum(place._cells * place._held // place._seats for place in self._places)

    # -------------------------------------------------------------------------------------------------- the refusals

    def _refuse_if_hopeless(self, seats: int, caller: str) -> None:
        refusal = self._capacity().refusal(Need(seats=seats))
        if refusal is not None:
            raise refusal
        if self._refusal is not None:
            raise self._refusal()
        is_anonymous = caller == ANONYMOUS
        self._has_identified |= not is_anonymous
        if is_anonymous and 0 < self.anonymous_seats < seats:
            text = f"n: {seats} replies to one request, where anonymous callers get 1 to {self.anonymous_seats} at once"
            raise InvalidRequest(text, param="n")
        standing = Standing(
            in_flight=_seats_held(self._places),
            waiting=[place._seats for place in self._waiting()],
            of_caller=len(self._of(caller)),
            has_identified=self._has_identified,
        )
        reason = refusal_at_the_door(self.rules, standing, seats=seats, is_anonymous=is_anonymous)
        if reason is not None:
            pending = standing.in_flight + len(standing.waiting)
            self._rejected[reason] += 1
            raise self._overloaded(self._told(reason, standing), reason, pending=pending)

    def _told(self, reason: OverloadReason, standing: Standing) -> str:
        in_flight, most = standing.in_flight, self.rules.max_in_flight
        text = f"{in_flight} of {most} seats are taken and {len(standing.waiting)} requests wait already"
        if reason is OverloadReason.PRINCIPAL_CAP:
            cap = self.rules.most_of_one
            return f"this caller has {standing.of_caller} requests here already, of at most {cap}"
        if reason is OverloadReason.ANONYMOUS_YIELD and self.rules.anon_max_in_flight == 0:
            return "this model has no seats for requests without an account or a key (`anon_max_in_flight` is 0)"
        if reason is OverloadReason.ANONYMOUS_YIELD:
            return f"{text}; what is free is kept for identified callers"
        return text

    def _obstacle(self, place: Place) -> Wait:
        rules, in_flight = self.rules, _seats_held(self._places)
        is_anonymous = place.caller == ANONYMOUS
        others = [other for other in self._waiting() if other is not place]
        before = [other for other in others if other.number < place.number]
        if is_anonymous:
            has_identified = any(other.caller != ANONYMOUS for other in others)
            if has_identified or _seats_held(self._anonymous()) + place._seats > self.anonymous_seats:
                return Wait.SEATS if in_flight + place._seats > rules.max_in_flight else Wait.YIELD
        else:
            before = [other for other in before if other.caller != ANONYMOUS]
        if in_flight + sum(other._seats for other in before) + place._seats > rules.max_in_flight:
            return Wait.SEATS
        cells = self._capacity().cells
        if cells is not None and self._cells_held + sum(other._cells for other in before) + place._cells > cells:
            return Wait.CELLS
        return Wait.ENGINE

    def _expired(self, place: Place, text: str) -> Overloaded:
        wait = place.waits_for
        if wait is Wait.CELLS:
            capacity = self._capacity()
            self._rejected[OverloadReason.KV_WAIT_EXPIRED] += 1
            return KvWaitExpired(
                "seats are free, but other requests hold the KV cells that this one needs",
                reason=OverloadReason.KV_WAIT_EXPIRED,
                retry_after_s=_CELLS_RETRY_S,
                free_mb=capacity.mib(capacity.cells or 0),
                required_mb=capacity.mib(place._cells),
            )
        reason = OverloadReason.WAIT_EXPIRED
        if wait is Wait.YIELD:
            reason = OverloadReason.ANONYMOUS_YIELD
            text = f"{text} for an anonymous caller: those that are free are kept for identified callers"
        self._rejected[reason] += 1
        return self._overloaded(text, reason, pending=self.rules.places)

    def _overloaded(self, text: str, reason: OverloadReason, *, pending: int) -> Overloaded:
        return Overloaded(
            text,
            reason=reason,
            retry_after_s=retry_after_s(self.rules, pending=pending),
            in_flight=_seats_held(self._places),
            queue_depth=len(self._waiting()),
        )


def _nobody_hears(_refusal: RequestRejected) -> None:
    """The caller has left."""


def _seats_held(places: Iterable[Place]) -> int:
    return sum(place._held for place in places)
