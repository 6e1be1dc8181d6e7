"""Few fetches at a time, in the order in which they came, and nobody left behind in the line."""

from contextlib import AsyncExitStack

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.sources.fetch_line import FetchLine
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


class Fetch:
    """A fetch that holds its place until it is told to end."""

    def __init__(self, line: FetchLine) -> None:
        self.line = line
        self.positions: list[int] = []
        self.is_running = False
        self.scope = anyio.CancelScope()
        self.may_end = anyio.Event()

    async def run(self) -> None:
        with self.scope:
            async with self.line.place(self.positions.append):
                self.is_running = True
                await self.may_end.wait()
        self.is_running = False


async def start(tasks: anyio.abc.TaskGroup, line: FetchLine, count: int) -> list[Fetch]:
    fetches = [Fetch(line) for _ in range(count)]
    for fetch in fetches:
        tasks.start_soon(fetch.run)
        await let_others_run(4)
    return fetches


def running(fetches: list[Fetch]) -> list[int]:
    return [index for index, fetch in enumerate(fetches) if fetch.is_running]


async def test_as_many_run_as_there_are_places_and_the_others_are_told_their_position() -> None:
    async with anyio.create_task_group() as tasks:
        fetches = await start(tasks, FetchLine(2), 5)
        assert running(fetches) == [0, 1]
        assert [fetch.positions for fetch in fetches] == [[], [], [1], [2], [3]]
        tasks.cancel_scope.cancel()


async def test_the_next_in_line_runs_when_a_place_is_free_and_the_others_move_up() -> None:
    async with anyio.create_task_group() as tasks:
        fetches = await start(tasks, FetchLine(1), 4)
        fetches[0].may_end.set()
        await let_others_run()
        assert running(fetches) == [1]
        assert [fetch.positions for fetch in fetches] == [[], [1, 0], [2, 1], [3, 2]]
        tasks.cancel_scope.cancel()


async def test_whoever_leaves_the_line_is_passed_over() -> None:
    async with anyio.create_task_group() as tasks:
        fetches = await start(tasks, FetchLine(1), 4)
        fetches[1].scope.cancel()
        await let_others_run()
        assert [fetch.positions for fetch in fetches] == [[], [1], [2, 1], [3, 2]]
        fetches[0].may_end.set()
        await let_others_run()
        assert running(fetches) == [2]
        tasks.cancel_scope.cancel()


async def test_a_turn_that_comes_together_with_a_cancellation_goes_to_the_next() -> None:
    async with anyio.create_task_group() as tasks:
        fetches = await start(tasks, FetchLine(1), 3)
        fetches[0].may_end.set()
        fetches[0].scope.cancel()
        fetches[1].scope.cancel()
        await let_others_run()
        assert running(fetches) == [2]
        tasks.cancel_scope.cancel()


async def test_a_newcomer_does_not_overtake_the_line() -> None:
    line = FetchLine(1)
    async with anyio.create_task_group() as tasks:
        async with AsyncExitStack() as held:
            await held.enter_async_context(line.place(lambda _: None))
            fetches = await start(tasks, line, 1)
        newcomer = await start(tasks, line, 1)  # the place was given back, and the one in line has not run yet
        assert (fetches[0].is_running, newcomer[0].is_running) == (True, False)
        tasks.cancel_scope.cancel()


@given(
    places=st.integers(1, 3),
    steps=st.lists(st.tuples(st.sampled_from(["come", "end", "leave"]), st.integers(0, 7)), max_size=25),
)
def test_whatever_comes_ends_and_leaves_the_places_are_used_and_never_exceeded(
    places: int, steps: list[tuple[str, int]]
) -> None:
    async def live() -> None:
        line = FetchLine(places)
        fetches: list[Fetch] = []
        async with anyio.create_task_group() as tasks:
            for step, index in steps:
                if step == "come":
                    fetches += await start(tasks, line, 1)
                elif index < len(fetches) and step == "leave":
                    fetches[index].scope.cancel()
                elif index < len(fetches) and fetches[index].is_running:  # only what runs can end
                    fetches[index].may_end.set()
                await let_others_run()
                alive = [f for f in fetches if not f.may_end.is_set() and not f.scope.cancel_called]
                assert [f for f in fetches if f.is_running] == alive[:places]
                assert [f.positions[-1] for f in alive[places:]] == list(range(1, len(alive[places:]) + 1))
            tasks.cancel_scope.cancel()
        assert repr(line) == f"<FetchLine {places} free, 0 waiting>"

    anyio.run(live)
