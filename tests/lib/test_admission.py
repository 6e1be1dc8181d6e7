import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.abc import TaskGroup
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.admission import AdmissionController, AdmissionSnapshot
from neuron_lib.errors import InvalidRequest, ModelNotLoaded, Overloaded, OverloadReason, RequestRejected, ShuttingDown
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


@dataclass(eq=False)
class Guest:
    """A request that asks for seats, keeps them until it is told to leave, and can be cancelled at any time.

    With `is_ready` it is prepared in the line until that is set.
    """

    number: int
    controller: AdmissionController
    arrivals: list[int]
    seats: int = 1
    is_ready: anyio.Event | None = None
    leave: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_seated: bool = False
    refusal: RequestRejected | None = None

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        if self.is_ready is None:
            async with self.controller.admit(self.seats):
                yield
        else:
            with self.controller.place(self.seats) as place:
                await self.is_ready.wait()
                await place.take_seat()
                yield

    async def come(self) -> None:
        with self.scope:
            try:
                async with self.admitted():
                    self.arrivals.append(self.number)
                    self.is_seated = True
                    try:
                        await self.leave.wait()
                    finally:
                        self.is_seated = False
            except RequestRejected as error:
                self.refusal = error


@dataclass
class House:
    """A controller with its guests, numbered in the order in which they come."""

    tasks: TaskGroup
    seats: int = 1
    queue: int = 8
    max_wait_s: float = 3600.0
    guests: list[Guest] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.controller = AdmissionController(
            max_in_flight=self.seats, max_queue_depth=self.queue, max_wait_s=self.max_wait_s
        )

    async def add(self, count: int = 1, *, needs: int = 1, turns: int = 20) -> None:
        for _ in range(count):
            guest = Guest(len(self.guests), self.controller, self.arrivals, needs)
            self.guests.append(guest)
            self.tasks.start_soon(guest.come)
            await let_others_run(turns)

    async def prepare(self, count: int = 1, *, needs: int = 1, turns: int = 20) -> None:
        """Let guests come that are not ready before `get_ready`."""
        for _ in range(count):
            guest = Guest(len(self.guests), self.controller, self.arrivals, needs, anyio.Event())
            self.guests.append(guest)
            self.tasks.start_soon(guest.come)
            await let_others_run(turns)

    async def get_ready(self, number: int, *, turns: int = 20) -> None:
        is_ready = self.guests[number].is_ready
        assert is_ready is not None
        is_ready.set()
        await let_others_run(turns)

    async def apply(self, step: str, number: int) -> None:
        """One step of a history: somebody comes, or something happens to one of those who came."""
        if step == "come":
            await self.add(needs=number, turns=1)
        elif step == "close":
            self.controller.close(ShuttingDown)
        elif step == "wait":
            await let_others_run(number)
        elif self.guests:
            guest = self.guests[number % len(self.guests)]
            if step == "leave":
                guest.leave.set()
            else:
                guest.scope.cancel()

    @property
    def counts(self) -> tuple[int, int]:
        snapshot = self.controller.snapshot()
        return snapshot.in_flight, snapshot.queue_depth

    @property
    def seated(self) -> list[int]:
        return [guest.number for guest in self.guests if guest.is_seated]

    @property
    def seats_taken(self) -> int:
        return sum(guest.seats for guest in self.guests if guest.is_seated)

    @property
    def waiting(self) -> list[Guest]:
        return [
            guest
            for guest in self.guests
            if guest.number not in self.arrivals and guest.refusal is None and not guest.scope.cancel_called
        ]

    @property
    def refused(self) -> dict[int, type[RequestRejected]]:
        return {guest.number: type(guest.refusal) for guest in self.guests if guest.refusal is not None}


async def test_as_many_run_as_there_are_seats_and_the_rest_waits() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=2)
        await house.add(5)
        assert (house.seated, house.counts) == ([0, 1], (2, 3))
        assert repr(house.controller) == "<AdmissionController 2/2 running, 3 waiting>"
        tasks.cancel_scope.cancel()


async def test_a_seat_that_becomes_free_goes_to_whoever_waits_longest() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        await house.add(4)
        for guest in house.guests:
            guest.leave.set()
            await let_others_run()
    assert house.arrivals == [0, 1, 2, 3]
    assert house.counts == (0, 0)


async def test_a_newcomer_cannot_take_the_seat_that_was_just_handed_over() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        await house.add(2)
        house.guests[0].leave.set()
        newcomer = Guest(2, house.controller, house.arrivals)
        tasks.start_soon(newcomer.come)
        await let_others_run()
        assert (house.seated, newcomer.is_seated, house.counts) == ([1], False, (1, 1))
        tasks.cancel_scope.cancel()


async def test_whoever_needs_several_seats_waits_for_all_of_them_and_nobody_is_seated_before() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=3)
        await house.add(2)
        await house.add(needs=3)
        await house.add()  # there is a free seat, but somebody waits for it
        assert (house.seated, house.counts) == ([0, 1], (2, 2))
        house.guests[0].leave.set()
        await let_others_run()
        assert (house.seated, house.counts) == ([1], (1, 2))
        house.guests[1].leave.set()
        await let_others_run()
        assert (house.seated, house.counts) == ([2], (3, 1))
        house.guests[2].leave.set()
        await let_others_run()
        assert (house.seated, house.counts) == ([3], (1, 0))
        tasks.cancel_scope.cancel()


async def test_several_who_fit_are_seated_when_many_seats_become_free() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=4)
        await house.add(needs=4)
        await house.add(2)
        await house.add(needs=2)
        house.guests[0].leave.set()
        await let_others_run()
        assert (house.seated, house.counts) == ([1, 2, 3], (4, 0))
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("gives_up", ["cancelled", "waited too long"])
async def test_when_the_first_in_line_gives_up_those_who_need_less_are_seated(gives_up: str) -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=2)
        await house.add()
        house.controller.max_wait_s = 3600.0 if gives_up == "cancelled" else 0.01
        await house.add(needs=2)
        house.controller.max_wait_s = 3600.0
        await house.add()
        if gives_up == "cancelled":
            assert house.counts == (1, 2)
            house.guests[1].scope.cancel()
        while house.seated != [0, 2]:
            await let_others_run()
        assert house.counts == (2, 0)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("seats", [0, 3])
async def test_more_seats_than_there_are_or_none_at_all_are_refused_at_once(seats: int) -> None:
    controller = AdmissionController(max_in_flight=2, max_queue_depth=8, max_wait_s=60)
    with pytest.raises(InvalidRequest, match=f"n: {seats} replies to one request, .* makes 1 to 2") as raised:
        async with controller.admit(seats):
            pass
    assert raised.value.param == "n"


async def test_a_full_queue_refuses_at_once_with_the_numbers_and_a_time_to_retry() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=2, queue=1)
        await house.add(4)
        refusal = house.guests[3].refusal
        assert isinstance(refusal, Overloaded)
        assert refusal.reason is OverloadReason.QUEUE_FULL
        assert refusal.message == "2 of 2 seats are taken and 1 requests wait already"
        assert refusal.fields == {"in_flight": 2, "queue_depth": 1}
        assert refusal.retry_after_s == 4  # one request waits before a newcomer, and two seconds for each
        assert house.controller.snapshot() == AdmissionSnapshot(
            in_flight=2, queue_depth=1, rejected_queue_full=1, rejected_timeout=0
        )
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("queue", "retry_after_s"), [(1, 4), (8, 18), (500, 120)])
async def test_an_expired_wait_is_refused_with_a_time_to_retry_that_grows_with_the_queue(
    queue: int, retry_after_s: int
) -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, queue=queue, max_wait_s=0)
        await house.add(2)
        refusal = house.guests[1].refusal
        assert isinstance(refusal, Overloaded)
        assert refusal.reason is OverloadReason.WAIT_EXPIRED
        assert refusal.retry_after_s == retry_after_s
        assert house.controller.snapshot() == AdmissionSnapshot(
            in_flight=1, queue_depth=0, rejected_queue_full=0, rejected_timeout=1
        )
        tasks.cancel_scope.cancel()


async def test_without_a_queue_a_full_house_refuses_at_once() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, queue=0)
        await house.add(2)
        assert house.refused == {1: Overloaded}
        tasks.cancel_scope.cancel()


async def test_whoever_is_cancelled_in_the_queue_leaves_no_trace() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        await house.add(3)
        house.guests[1].scope.cancel()
        await let_others_run()
        assert house.counts == (1, 1)
        house.guests[0].leave.set()
        await let_others_run()
        assert house.seated == [2]
        house.guests[2].leave.set()
    assert house.counts == (0, 0)


async def test_a_seat_handed_to_somebody_who_is_cancelled_in_that_moment_goes_to_the_next() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        async with house.controller.admit():
            await house.add(2)
        # The first one has the seat now, and has not run since.
        house.guests[0].scope.cancel()
        await let_others_run()
        assert house.seated == [1]
        house.guests[1].leave.set()
    assert house.counts == (0, 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncios_own_cancellation_in_that_moment_passes_the_seat_on_too() -> None:
    # Unlike a cancel scope it strikes even though the event has been set.
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        victim = Guest(0, house.controller, house.arrivals)
        async with house.controller.admit():
            task = asyncio.ensure_future(victim.come())
            await let_others_run()
            await house.add()
        task.cancel()
        await let_others_run()
        assert task.cancelled()
        assert house.arrivals == [0]
        assert house.guests[0].is_seated
        house.guests[0].leave.set()
    assert house.counts == (0, 0)


async def test_a_seat_that_becomes_free_in_the_moment_of_a_cancellation_goes_to_the_next() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        async with house.controller.admit():
            await house.add(2)
            house.guests[0].scope.cancel()
        await let_others_run()
        assert house.arrivals == [1]
        house.guests[1].leave.set()
    assert house.counts == (0, 0)


async def test_closing_refuses_everybody_but_those_who_run() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, queue=2)
        await house.add(3)
        house.controller.close(ShuttingDown)
        await house.add()
        assert house.refused == {1: ShuttingDown, 2: ShuttingDown, 3: ShuttingDown}
        assert (house.seated, house.counts) == ([0], (1, 0))
        house.guests[0].leave.set()
    snapshot = house.controller.snapshot()
    assert snapshot == AdmissionSnapshot(in_flight=0, queue_depth=0, rejected_queue_full=0, rejected_timeout=0)


async def test_the_first_close_decides_what_is_raised() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        house.controller.close(lambda: ModelNotLoaded("o/a"))
        house.controller.close(ShuttingDown)
        await house.add()
    assert house.refused == {0: ModelNotLoaded}


async def test_a_seat_that_was_handed_over_before_the_close_is_kept() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        async with house.controller.admit():
            await house.add(2)
        house.controller.close(ShuttingDown)
        await let_others_run()
        assert (house.seated, house.refused) == ([0], {1: ShuttingDown})
        house.guests[0].leave.set()
    assert house.counts == (0, 0)


async def test_a_seat_that_becomes_free_in_the_moment_of_the_close_is_handed_to_nobody() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        async with house.controller.admit():
            await house.add()
            house.controller.close(ShuttingDown)
        house.guests[0].leave.set()
    assert (house.arrivals, house.refused, house.counts) == ([], {0: ShuttingDown}, (0, 0))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
async def test_a_block_that_fails_gives_its_seat_back(error: type[BaseException]) -> None:
    controller = AdmissionController(max_in_flight=1, max_queue_depth=0, max_wait_s=0)
    with pytest.raises(error):
        async with controller.admit():
            raise error
    assert controller.snapshot().in_flight == 0


# ------------------------------------------------------------------------------------------------- still being prepared


async def test_an_idle_host_lets_in_as_many_as_it_can_seat_and_queue_before_any_of_them_is_prepared() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=2, queue=1)
        await house.prepare(4)
        assert (house.refused, house.counts) == ({3: Overloaded}, (0, 3))
        refusal = house.guests[3].refusal
        assert isinstance(refusal, Overloaded)
        assert (refusal.reason, refusal.retry_after_s) == (OverloadReason.QUEUE_FULL, 4)
        for number in range(3):
            await house.get_ready(number)
        assert (house.seated, house.counts) == ([0, 1], (2, 1))
        tasks.cancel_scope.cancel()


async def test_the_seats_that_those_in_the_line_will_take_are_not_there_for_a_newcomer() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=3, queue=0)
        await house.prepare(needs=2)
        await house.add(needs=2)
        await house.add()
        assert (house.seated, house.refused) == ([2], {1: Overloaded})
        tasks.cancel_scope.cancel()


async def test_whoever_is_being_prepared_keeps_nobody_waiting() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        await house.prepare()
        await house.add()
        assert (house.seated, house.counts) == ([1], (1, 1))
        tasks.cancel_scope.cancel()


async def test_those_who_are_ready_are_seated_in_the_order_in_which_they_came() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        await house.add()
        await house.prepare(2)
        await house.get_ready(2)
        await house.get_ready(1)
        for number in (0, 1):
            house.guests[number].leave.set()
            await let_others_run()
        assert house.arrivals == [0, 1, 2]
        tasks.cancel_scope.cancel()


async def test_whoever_is_cancelled_while_it_is_prepared_makes_room() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, queue=0)
        await house.prepare()
        house.guests[0].scope.cancel()
        await let_others_run()
        assert house.counts == (0, 0)
        await house.add()
        assert house.seated == [1]
        tasks.cancel_scope.cancel()


async def test_closing_refuses_those_who_are_being_prepared_once_they_are_ready() -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks)
        await house.prepare()
        house.controller.close(ShuttingDown)
        await let_others_run()
        assert (house.refused, house.counts) == ({}, (0, 1))
        await house.get_ready(0)
        assert (house.refused, house.counts) == ({0: ShuttingDown}, (0, 0))


async def test_whoever_has_its_seat_keeps_it_however_often_it_asks_for_it() -> None:
    controller = AdmissionController(max_in_flight=1, max_queue_depth=0, max_wait_s=0)
    with controller.place() as place:
        await place.take_seat()
        controller.close(ShuttingDown)
        await place.take_seat()
        assert controller.snapshot().in_flight == 1
    assert controller.snapshot().in_flight == 0


async def test_whoever_waited_too_long_to_be_prepared_is_refused_like_one_who_waited_for_a_seat() -> None:
    controller = AdmissionController(max_in_flight=2, max_queue_depth=3, max_wait_s=60)
    with controller.place() as place:
        refusal = place.expired("not prepared")
    assert (refusal.message, refusal.reason, refusal.retry_after_s) == ("not prepared", OverloadReason.WAIT_EXPIRED, 8)
    assert controller.snapshot() == AdmissionSnapshot(
        in_flight=0, queue_depth=0, rejected_queue_full=0, rejected_timeout=1
    )


@given(
    history=st.lists(
        st.tuples(st.sampled_from(["come", "get ready", "leave", "cancel"]), st.integers(0, 7)), max_size=40
    ),
    seats=st.integers(1, 3),
    queue=st.integers(0, 3),
)
async def test_however_long_preparing_takes_as_many_are_let_in_as_seats_and_queue_hold_and_no_seat_is_left_empty(
    history: list[tuple[str, int]], seats: int, queue: int
) -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=seats, queue=queue)
        for step, number in history:
            if step == "come":
                is_full = sum(house.counts) == seats + queue
                await house.prepare()
                assert (house.guests[-1].refusal is not None) is is_full
            elif house.guests:
                guest = house.guests[number % len(house.guests)]
                if step == "get ready":
                    await house.get_ready(guest.number)
                else:
                    await house.apply(step, number)
                    await let_others_run()
            ready = [guest for guest in house.waiting if guest.is_ready is not None and guest.is_ready.is_set()]
            assert house.counts == (len(house.seated), len(house.waiting))
            assert not ready or len(house.seated) == seats
        for guest in house.guests:
            await house.get_ready(guest.number)
            guest.leave.set()
    assert house.counts == (0, 0)


SETTLED = ("wait", 20)
HISTORIES = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["leave", "cancel"]), st.integers(0, 7)),
        st.tuples(st.just("wait"), st.integers(1, 4)),
        st.just(SETTLED),
        st.just(("close", 0)),
    ),
    max_size=40,
)


@given(history=HISTORIES, seats=st.integers(1, 3), queue=st.integers(0, 3), max_wait_s=st.sampled_from([0.0, 3600.0]))
async def test_whatever_happens_in_whatever_order_the_counts_are_right_and_end_at_zero(
    history: list[tuple[str, int]], seats: int, queue: int, max_wait_s: float
) -> None:
    async with anyio.create_task_group() as tasks:
        house = House(tasks, seats=seats, queue=queue, max_wait_s=max_wait_s)
        for step in history:
            await house.apply(*step)
            in_flight, waiting = house.counts
            assert house.seats_taken <= in_flight <= seats
            assert waiting <= queue
            if step == SETTLED:
                assert house.seats_taken == in_flight
                assert len(house.waiting) == waiting
                assert waiting == 0 or in_flight + house.waiting[0].seats > seats
        for guest in house.guests:
            guest.leave.set()
    assert house.counts == (0, 0)
    snapshot = house.controller.snapshot()
    overloads = [guest.refusal for guest in house.guests if isinstance(guest.refusal, Overloaded)]
    assert snapshot.rejected_queue_full == sum(error.reason is OverloadReason.QUEUE_FULL for error in overloads)
    assert snapshot.rejected_timeout == sum(error.reason is OverloadReason.WAIT_EXPIRED for error in overloads)
    for guest in house.guests:
        assert (guest.number in house.arrivals) + (guest.refusal is not None) + guest.scope.cancelled_caught >= 1
    if seats == 1:
        assert house.arrivals == sorted(house.arrivals)
