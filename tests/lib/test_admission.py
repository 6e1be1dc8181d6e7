from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from neuron_lib.admission import MINIMAL, AdmissionController, AdmissionRules, Capacity, Need, Place, Wait
from neuron_lib.errors import (
    InvalidRequest,
    KvWaitExpired,
    ModelNotLoaded,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    RequestRejected,
    ShuttingDown,
    TooLargeForKv,
)
from neuron_lib.types import Principal


@dataclass
class Guest:
    """A request: where it stands, or why it was refused."""

    needs: int
    place: Place | None = None
    leave: object = None
    refusal: RequestRejected | None = None
    replies_left: int = 0

    def refuse(self, refusal: RequestRejected) -> None:
        self.refusal = refusal


@dataclass
class House:
    """A controller with its guests, numbered in the order in which they come. Nobody begins before `begin`."""

    seats: int = 1
    queue: int = 8
    rules: dict[str, int] = field(default_factory=dict)
    cells: int | None = None
    guests: list[Guest] = field(default_factory=list)

    def __post_init__(self) -> None:
        rules = AdmissionRules(
            max_in_flight=self.seats, max_queue_depth=self.queue, max_wait_s=60, **{"kv_max_wait_s": 240} | self.rules
        )
        capacity = Capacity(seats=self.seats, cells=self.cells, cell_bytes=1 << 20)
        self.controller = AdmissionController(rules, capacity=lambda: capacity)

    def come(self, *needs: int, who: str | None = None) -> None:
        for need in needs or (1,):
            guest = Guest(need)
            self.guests.append(guest)
            principal = None if who is None else Principal(who, "key")
            context = self.controller.place(need, principal=principal, refuse=guest.refuse)
            try:
                guest.place = context.__enter__()
            except RequestRejected as error:
                guest.refusal = error
            else:
                guest.leave = context

    def begin(self, *numbers: int) -> None:
        for number in numbers:
            guest = self.guests[number]
            self.place(number).begin()
            guest.replies_left = guest.needs

    def leave(self, number: int) -> None:
        guest = self.guests[number]
        guest.leave.__exit__(None, None, None)  # type: ignore[attr-defined]  # the context of `place`
        guest.place, guest.replies_left = None, 0

    def place(self, number: int) -> Place:
        place = self.guests[number].place
        assert place is not None
        return place

    @property
    def counts(self) -> tuple[int, int]:
        snapshot = self.controller.snapshot()
        return snapshot.in_flight, snapshot.queue_depth

    @property
    def rejected(self) -> dict[str, int]:
        """What is counted of those that were refused, by reason; without zeros."""
        counts = asdict(self.controller.snapshot())
        return {k.removeprefix("rejected_"): v for k, v in counts.items() if k.startswith("rejected_") and v}

    @property
    def refused(self) -> dict[int, type[RequestRejected]]:
        return {n: type(guest.refusal) for n, guest in enumerate(self.guests) if guest.refusal is not None}


def test_a_request_waits_until_it_begins_and_then_holds_a_seat_for_each_reply() -> None:
    house = House(seats=3)
    house.come(2, 1)
    assert house.counts == (0, 2)
    house.begin(0)
    assert house.counts == (2, 1)
    assert repr(house.controller) == "<AdmissionController 2/3 running, 1 waiting>"
    house.begin(1)
    assert house.counts == (3, 0)


def test_the_seat_of_a_reply_is_free_when_it_is_complete_and_the_request_is_gone_with_its_last_reply() -> None:
    house = House(seats=2)
    house.come(2)
    house.begin(0)
    house.place(0).end_reply()
    assert house.counts == (1, 0)
    house.place(0).end_reply()
    assert house.counts == (0, 0)
    house.leave(0)
    assert house.counts == (0, 0)


@pytest.mark.parametrize("begins", [False, True])
def test_whoever_leaves_early_gives_back_what_it_held(begins: bool) -> None:  # noqa: FBT001 - a parameter
    house = House(seats=2)
    house.come(2)
    house.begin(*[0][: int(begins)])
    house.leave(0)
    assert house.counts == (0, 0)


def test_a_request_whose_engine_is_gone_waits_again_in_its_old_place() -> None:
    house = House(seats=2)
    house.come(2, 1)
    house.begin(0)
    house.place(0).wait_again()
    assert house.counts == (0, 2)
    assert [house.place(number).waits_for for number in (0, 1)] == [Wait.ENGINE, Wait.SEATS]
    house.begin(0)
    assert house.counts == (2, 1)


def test_a_request_waits_for_seats_while_those_before_it_leave_too_few() -> None:
    house = House(seats=3)
    house.come(1, 2, 1)
    assert [house.place(number).waits_for for number in range(3)] == [Wait.ENGINE, Wait.ENGINE, Wait.SEATS]
    house.begin(0)
    assert [house.place(number).waits_for for number in (1, 2)] == [Wait.ENGINE, Wait.SEATS]
    house.leave(1)
    assert house.place(2).waits_for is Wait.ENGINE


def test_a_request_that_has_begun_waits_for_nothing_but_its_engine() -> None:
    house = House(seats=2, cells=10)
    house.come(2)
    house.place(0).prepare(cells=10)
    house.begin(0)
    assert house.place(0).waits_for is Wait.ENGINE


def test_numbers_grow_with_every_arrival() -> None:
    house = House(queue=2)
    house.come(1, 1, 1)
    house.leave(1)
    house.come(1)
    assert [house.place(number).number for number in (0, 2, 3)] == [1, 3, 4]


@pytest.mark.parametrize("seats", [0, 3])
def test_more_seats_than_there_are_or_none_at_all_are_refused_at_once(seats: int) -> None:
    house = House(seats=2)
    house.come(seats)
    refusal = house.guests[0].refusal
    assert isinstance(refusal, InvalidRequest)
    assert refusal.message == f"n: {seats} replies to one request, where this model makes 1 to 2 at once"
    assert refusal.param == "n"


def test_a_full_queue_refuses_at_once_with_the_numbers_and_a_time_to_retry() -> None:
    house = House(seats=2, queue=1)
    house.come(1, 1, 1)
    house.begin(0, 1)
    house.come()
    refusal = house.guests[3].refusal
    assert isinstance(refusal, Overloaded)
    assert refusal.reason is OverloadReason.QUEUE_FULL
    assert refusal.message == "2 of 2 seats are taken and 1 requests wait already"
    assert refusal.fields == {"in_flight": 2, "queue_depth": 1}
    assert refusal.retry_after_s == 4  # one request waits before a newcomer, and two seconds for each
    assert house.rejected == {"queue_full": 1}


@pytest.mark.parametrize(("queue", "retry_after_s"), [(1, 4), (8, 18), (500, 120)])
def test_an_expired_wait_is_refused_with_a_time_to_retry_that_grows_with_the_queue(
    queue: int, retry_after_s: int
) -> None:
    house = House(queue=queue)
    house.come(1, 1)
    house.begin(0)
    refusal = house.place(1).expired("no seat became free")
    house.leave(1)
    assert (refusal.message, refusal.reason) == ("no seat became free", OverloadReason.WAIT_EXPIRED)
    assert refusal.retry_after_s == retry_after_s
    assert house.counts == (1, 0)
    assert house.rejected == {"timeout": 1}


def test_without_a_queue_a_full_house_refuses_at_once() -> None:
    house = House(queue=0)
    house.come()
    house.begin(0)
    house.come()
    assert house.refused == {1: Overloaded}


def test_an_idle_host_lets_in_as_many_as_it_can_seat_and_queue_before_any_of_them_begins() -> None:
    house = House(seats=2, queue=1)
    house.come(1, 1, 1, 1)
    assert (house.refused, house.counts) == ({3: Overloaded}, (0, 3))


def test_the_seats_that_those_in_the_line_will_take_are_not_there_for_a_newcomer() -> None:
    house = House(seats=3, queue=0)
    house.come(2, 2, 1)
    assert house.refused == {1: Overloaded}


def test_closing_refuses_all_who_have_not_begun_and_all_who_come() -> None:
    house = House(seats=2, queue=2)
    house.come(1, 1, 1)
    house.begin(0)
    house.controller.close(ShuttingDown)
    house.come()
    assert house.refused == {1: ShuttingDown, 2: ShuttingDown, 3: ShuttingDown}
    assert isinstance(house.place(1).refusal, ShuttingDown)
    assert house.place(0).refusal is None
    assert house.controller.snapshot().in_flight == 1
    assert house.rejected == {}


def test_whoever_has_begun_once_is_not_refused_by_a_close_while_it_waits_for_the_next_engine() -> None:
    house = House()
    house.come()
    house.begin(0)
    house.place(0).wait_again()
    house.controller.close(ShuttingDown)
    assert (house.refused, house.counts) == ({}, (0, 1))


def test_the_first_close_decides_what_is_raised() -> None:
    house = House()
    house.come()
    house.controller.close(lambda: ModelNotLoaded("o/a"))
    house.controller.close(ShuttingDown)
    house.come()
    assert house.refused == {0: ModelNotLoaded, 1: ModelNotLoaded}


# ------------------------------------------------------------------------------------------------- whose requests


def reason(guest: Guest) -> OverloadReason | None:
    return guest.refusal.reason if isinstance(guest.refusal, Overloaded) else None


def test_one_principal_has_no_more_requests_than_it_may_and_the_others_find_room() -> None:
    house = House(seats=2, queue=4, rules={"max_per_principal": 2})
    house.come(1, 1, who="a")
    house.begin(0)
    house.come(1, who="a")
    house.come(1, who="b")
    assert reason(house.guests[2]) is OverloadReason.PRINCIPAL_CAP
    assert "2 requests here already, of at most 2" in str(house.guests[2].refusal)
    assert house.guests[3].refusal is None
    house.leave(1)
    house.come(1, who="a")
    assert house.guests[4].refusal is None
    assert house.rejected == {"per_principal": 1}


@pytest.mark.parametrize(
    ("configured", "seats", "queue", "most"),
    [(None, 8, 32, 20), (None, 8, 0, 8), (None, 1, 0, 1), (0, 1, 8, 0), (3, 8, 32, 3)],
)
def test_a_principal_may_have_half_of_all_places_but_all_seats_unless_it_is_configured(
    configured: int | None, seats: int, queue: int, most: int
) -> None:
    rules = AdmissionRules(max_in_flight=seats, max_queue_depth=queue, max_wait_s=1, max_per_principal=configured)
    assert rules.most_of_one == most


def test_a_cap_of_zero_is_no_cap() -> None:
    house = House(seats=1, queue=3, rules={"max_per_principal": 0})
    house.come(1, 1, 1, 1, who="a")
    assert house.refused == {}


def test_nothing_is_withheld_from_anonymous_callers_until_a_principal_has_come() -> None:
    house = House(seats=2, queue=0)
    house.come(1, 1)
    house.begin(0, 1)
    snapshot = house.controller.snapshot()
    assert (snapshot.anon_in_flight, snapshot.anon_max_in_flight) == (2, 2)
    house.leave(0)
    house.come(1, who="a")
    house.begin(2)
    snapshot = house.controller.snapshot()
    assert (snapshot.in_flight, snapshot.anon_in_flight, snapshot.anon_max_in_flight) == (2, 1, 1)


def test_anonymous_callers_do_not_take_the_last_place_once_a_principal_has_come() -> None:
    house = House(seats=1, queue=2)
    house.come(1, who="a")
    house.leave(0)
    house.come(1, 1, 1)
    assert reason(house.guests[3]) is OverloadReason.ANONYMOUS_YIELD
    house.come(1, who="a")
    assert house.guests[4].refusal is None


def test_anonymous_callers_that_may_have_no_seat_are_refused_and_told_when_to_come_back() -> None:
    house = House(rules={"anon_max_in_flight": 0})
    house.come()
    assert reason(house.guests[0]) is OverloadReason.ANONYMOUS_YIELD
    assert house.guests[0].refusal is not None
    assert house.guests[0].refusal.retry_after_s == 2
    assert "`anon_max_in_flight` is 0" in house.guests[0].refusal.message
    assert house.controller.snapshot().anon_max_in_flight == 0


def test_an_anonymous_request_for_more_replies_than_it_could_ever_get_is_refused_by_name() -> None:
    house = House(seats=4, rules={"anon_max_in_flight": 2})
    house.come(3)
    refusal = house.guests[0].refusal
    assert isinstance(refusal, InvalidRequest)
    assert refusal.param == "n"
    house.come(3, who="a")
    assert house.guests[1].refusal is None


@pytest.mark.parametrize(("begins", "counted"), [(0, {"anon_yield": 1}), (1, {"timeout": 1})])
def test_an_anonymous_caller_that_waited_in_vain_yielded_only_if_a_seat_was_free(
    begins: int, counted: dict[str, int]
) -> None:
    house = House(seats=1)
    house.come(1, who="a")
    house.begin(*[0][:begins])
    house.come()
    assert house.place(1).waits_for is (Wait.SEATS if begins else Wait.YIELD)
    house.place(1).expired("no seat became free")
    assert house.rejected == counted


def test_an_anonymous_caller_yields_while_its_kind_has_all_the_seats_that_it_may_have() -> None:
    house = House(seats=3, rules={"anon_max_in_flight": 1})
    house.come(1, 1)
    house.begin(0)
    assert house.place(1).waits_for is Wait.YIELD
    assert house.place(1).most_seats == 1


def test_a_principal_does_not_wait_for_anonymous_callers_that_came_before_it() -> None:
    house = House(seats=1)
    house.come(1)
    house.come(1, who="a")
    assert house.place(1).waits_for is Wait.ENGINE


# ------------------------------------------------------------------------------------------------------- the cells


def test_the_cells_of_running_requests_are_not_available() -> None:
    house = House(seats=2, cells=100)
    house.come(1, 1)
    house.place(0).prepare(cells=60)
    house.place(1).prepare(cells=30)
    assert house.controller.snapshot().kv_available_mb == 100
    house.begin(0)
    snapshot = house.controller.snapshot()
    assert (snapshot.kv_budget_mb, snapshot.kv_available_mb) == (100, 40)
    house.leave(0)
    assert house.controller.snapshot().kv_available_mb == 100


def test_a_reply_that_is_complete_gives_back_its_share_of_the_cells() -> None:
    house = House(seats=2, cells=100)
    house.come(2)
    house.place(0).prepare(cells=60)
    house.begin(0)
    house.place(0).end_reply()
    assert house.controller.snapshot().kv_available_mb == 70


def test_a_request_that_finds_seats_but_no_cells_waits_longer_and_is_refused_for_its_cells() -> None:
    house = House(seats=2, cells=100)
    house.come(1, 1)
    house.place(0).prepare(cells=60)
    house.begin(0)
    assert house.place(1).patience_s == 60
    house.place(1).prepare(cells=41)
    assert (house.place(1).waits_for, house.place(1).patience_s) == (Wait.CELLS, 240)
    refusal = house.place(1).expired("no seat became free")
    assert isinstance(refusal, KvWaitExpired)
    assert (refusal.retry_after_s, refusal.fields) == (5, {"free_mb": 100, "required_mb": 41})
    assert house.rejected == {"kv_timeout": 1}


def test_nobody_waits_longer_for_cells_than_the_rules_say_even_if_seats_may_be_waited_for_longer() -> None:
    house = House(seats=2, cells=100, rules={"kv_max_wait_s": 5})
    house.come(1, 1)
    house.place(0).prepare(cells=60)
    house.begin(0)
    house.place(1).prepare(cells=41)
    assert house.place(1).patience_s == 5


def test_a_request_that_the_engine_refused_for_its_cells_is_counted_and_gone() -> None:
    house = House(cells=10)
    house.come(1, 1)
    house.place(0).fail(TooLargeForKv("too large", required_mb=11, budget_mb=10))
    house.place(1).fail(InvalidRequest("no such thing"))
    assert (house.rejected, house.counts) == ({"kv_unservable": 1}, (0, 0))


@pytest.mark.parametrize(
    ("need", "refusal"),
    [
        (MINIMAL, None),
        (Need(seats=2, prompt_tokens=8, cells=10), None),
        (Need(seats=3), InvalidRequest),
        (Need(seats=0), InvalidRequest),
        (Need(prompt_tokens=9), PromptTooLong),
        (Need(cells=11), TooLargeForKv),
    ],
)
def test_what_an_idle_model_could_not_serve_either_is_refused(
    need: Need, refusal: type[RequestRejected] | None
) -> None:
    capacity = Capacity(seats=2, prompt_tokens=8, cells=10, cell_bytes=1)
    found = capacity.refusal(need)
    assert refusal is None if found is None else type(found) is refusal
    assert Capacity().refusal(need) is None


def test_memory_that_there_is_never_counts_as_nothing() -> None:
    assert [Capacity(cell_bytes=3).mib(cells) for cells in (0, 1, 1 << 20)] == [0, 1, 3]


# ------------------------------------------------------------------------------------------------------- the release


def test_whoever_lingers_is_counted_until_the_engine_has_let_go() -> None:
    house = House()
    house.come(1, who="a")
    house.begin(0)
    place = house.place(0)
    place.linger()
    house.leave(0)
    assert house.counts == (1, 0)
    place.end()
    assert house.counts == (0, 0)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_block_that_fails_gives_its_seats_back(error: type[BaseException]) -> None:
    controller = AdmissionController(AdmissionRules(max_in_flight=1, max_queue_depth=0, max_wait_s=0))
    with (  # noqa: PT012 - the block is what is tested
        pytest.raises(error),
        controller.place(refuse=lambda _refusal: None) as place,
    ):
        place.begin()
        raise error
    assert controller.snapshot().in_flight == 0


@given(
    history=st.lists(
        st.tuples(st.sampled_from(["come", "begin", "end a reply", "wait again", "leave"]), st.integers(0, 7)),
        max_size=40,
    ),
    seats=st.integers(1, 3),
    queue=st.integers(0, 3),
)
def test_whatever_happens_as_many_are_let_in_as_seats_and_queue_hold_and_the_counts_end_at_zero(
    history: list[tuple[str, int]], seats: int, queue: int
) -> None:
    house = House(seats=seats, queue=queue)
    for step, number in history:
        here = [n for n, guest in enumerate(house.guests) if guest.place is not None]
        waiting = [n for n in here if not house.guests[n].replies_left]
        running = [n for n in here if house.guests[n].replies_left]
        if step == "come":
            is_full = sum(house.counts) >= seats + queue
            house.come()
            assert (house.guests[-1].refusal is not None) is is_full
        elif step == "begin" and waiting and len(running) < seats:
            house.begin(waiting[0])  # as an engine does that seats whoever came first
        elif step == "wait again" and running:
            guest = house.guests[running[number % len(running)]]
            assert guest.place is not None
            guest.place.wait_again()
            guest.replies_left = 0
        elif step == "end a reply" and running:
            which = running[number % len(running)]
            house.place(which).end_reply()
            house.leave(which)
        elif step == "leave" and here:
            house.leave(here[number % len(here)])
        here = [n for n, guest in enumerate(house.guests) if guest.place is not None]
        running = [n for n in here if house.guests[n].replies_left]
        assert house.counts == (len(running), len(here) - len(running))
        assert len(running) <= seats
    for number, guest in enumerate(house.guests):
        if guest.place is not None:
            house.leave(number)
    assert house.counts == (0, 0)
