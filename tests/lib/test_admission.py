from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from neuron_lib.admission import AdmissionController, AdmissionRules, Place, Wait
from neuron_lib.errors import InvalidRequest, ModelNotLoaded, Overloaded, OverloadReason, RequestRejected, ShuttingDown


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
    guests: list[Guest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller = AdmissionController(
            AdmissionRules(max_in_flight=self.seats, max_queue_depth=self.queue, max_wait_s=60)
        )

    def come(self, *needs: int) -> None:
        for need in needs or (1,):
            guest = Guest(need)
            self.guests.append(guest)
            context = self.controller.place(need, refuse=guest.refuse)
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
