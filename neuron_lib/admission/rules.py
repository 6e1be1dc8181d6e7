"""What a newcomer is told at the door of a model. Pure: from the rules and from what is counted now."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

from neuron_lib.errors import OverloadReason
from neuron_lib.types import Principal

__all__ = ("ANONYMOUS", "AdmissionRules", "Standing", "name_of", "refusal_at_the_door", "retry_after_s")

ANONYMOUS: Final = ""
"""The name of all callers that are not identified."""

_SECONDS_FOR_EACH: Final = 2
_LONGEST_RETRY_S: Final = 120


class AdmissionRules(Struct, frozen=True, kw_only=True):
    """How many requests of one model may run and wait, and whose.

    `max_in_flight` are the seats, `max_queue_depth` the requests that may wait beside them. A request waits at most
    `max_wait_s` for its seats, and `kv_max_wait_s` for its cells, in seconds. One principal has at most
    `max_per_principal` requests, running ones included: 0 sets no bound, and None half of all places, or as many as
    there are seats if that is more.

    Anonymous callers have at most `anon_max_in_flight` seats (0 refuses all of them) and `anon_max_pending` requests.
    None withholds nothing from them until somebody identified has come; from then on it withholds one seat, and one
    place. Higher numbers than there are seats or places mean all of them.
    """

    max_in_flight: int
    max_queue_depth: int
    max_wait_s: float
    kv_max_wait_s: float = 240.0
    max_per_principal: int | None = None
    anon_max_in_flight: int | None = None
    anon_max_pending: int | None = None

    @property
    def places(self) -> int:
        """Requests that run or wait, if each of them takes one seat."""
        return self.max_in_flight + self.max_queue_depth

    @property
    def most_of_one(self) -> int:
        """Requests that one principal may have at the same time; 0 if there is no bound."""
        if self.max_per_principal is None:
            return max(self.max_in_flight, self.places // 2)
        return self.max_per_principal

    def anonymous_seats(self, *, has_identified: bool) -> int:
        """Seats that anonymous callers may have together. `has_identified`: somebody identified has ever come."""
        return _ceiling(self.anon_max_in_flight, self.max_in_flight, withholds=has_identified)

    def anonymous_places(self, *, has_identified: bool) -> int:
        """Requests of anonymous callers that may run or wait."""
        return _ceiling(self.anon_max_pending, self.places, withholds=has_identified)


def _ceiling(configured: int | None, most: int, *, withholds: bool) -> int:
    if configured is None:
        return max(1, most - withholds)
    return min(configured, most)


class Standing(Struct, frozen=True, kw_only=True):
    """What is counted when somebody comes.

    `in_flight` are the seats that are taken, `waiting` the seats that each waiting request needs, in order of arrival.
    `of_caller` are the requests of the same caller that run or wait; those of all anonymous callers are one caller's.
    """

    in_flight: int
    waiting: Sequence[int]
    of_caller: int
    has_identified: bool


def refusal_at_the_door(
    rules: AdmissionRules, standing: Standing, *, seats: int, is_anonymous: bool
) -> OverloadReason | None:
    """Why a newcomer that needs `seats` is refused now; None if it is let in.

    A newcomer is let in if it would find its seats, or room to wait, were all before it ready to begin.
    """
    free = rules.max_in_flight - standing.in_flight
    needs = accumulate([*standing.waiting, seats])
    if sum(seats_so_far > free for seats_so_far in needs) > rules.max_queue_depth:
        return OverloadReason.QUEUE_FULL
    if not is_anonymous:
        is_over = 0 < rules.most_of_one <= standing.of_caller
        return OverloadReason.PRINCIPAL_CAP if is_over else None
    has_seat = rules.anonymous_seats(has_identified=standing.has_identified) > 0
    places = rules.anonymous_places(has_identified=standing.has_identified)
    if has_seat and standing.of_caller < places:
        return None
    # Nothing is withheld from anonymous callers while all seats are taken: then the line is full for them.
    return OverloadReason.ANONYMOUS_YIELD if free > 0 or not has_seat else OverloadReason.QUEUE_FULL


def retry_after_s(rules: AdmissionRules, *, pending: int) -> int:
    """When to come back, in seconds: two for each request that waits before a newcomer, and two more."""
    return min(_SECONDS_FOR_EACH * (max(0, pending - rules.max_in_flight) + 1), _LONGEST_RETRY_S)


def name_of(principal: Principal | None) -> str:
    """The one name of an account and its key, by which requests of the same caller are known."""
    return ANONYMOUS if principal is None else f"{principal.account_id}/{principal.key_id}"
