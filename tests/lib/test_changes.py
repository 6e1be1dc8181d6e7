import anyio
import pytest

from neuron_lib.changes import Changes
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio


async def test_a_change_wakes_every_task_that_waits_for_it() -> None:
    changes, woken = Changes(), list[str]()

    async def follow(name: str) -> None:
        await changes.wait()
        woken.append(name)

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            tasks.start_soon(follow, name)
        await let_others_run()
        assert woken == []
        changes.notify()
    assert sorted(woken) == ["a", "b"]


async def test_a_change_before_the_wait_does_not_end_the_wait() -> None:
    changes, woken = Changes(), list[str]()

    async def follow() -> None:
        await changes.wait()
        woken.append("woken")

    changes.notify()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await let_others_run()
        assert woken == []
        changes.notify()


async def test_a_change_after_the_event_was_taken_is_not_missed() -> None:
    changes = Changes()
    upcoming = changes.next
    changes.notify()
    await upcoming.wait()
    assert not changes.next.is_set()


async def test_a_wait_for_a_state_ends_when_the_state_is_reached() -> None:
    changes, looked_at, state = Changes(), list[int](), 0

    def is_reached() -> bool:
        looked_at.append(state)
        return state == 2

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(changes.until, is_reached)
        await let_others_run()
        for state in (1, 2):  # noqa: B007 - `is_reached` reads it
            changes.notify()
            await let_others_run()
    assert looked_at == [0, 1, 2]


async def test_a_wait_for_a_state_that_is_reached_ends_at_once() -> None:
    await Changes().until(lambda: True)


async def test_a_loop_has_a_round_at_once_and_one_after_each_change() -> None:
    changes, seen, state = Changes(), list[int](), 0

    async def follow() -> None:
        async for _ in changes:
            seen.append(state)
            if state == 2:
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await let_others_run()
        for state in (1, 2):  # noqa: B007 - `follow` reads it
            changes.notify()
            await let_others_run()
    assert seen == [0, 1, 2]


async def test_changes_during_a_round_bring_one_further_round() -> None:
    changes, seen = Changes(), list[str]()

    async def follow() -> None:
        async for _ in changes:
            seen.append("round")
            if len(seen) == 1:
                changes.notify()
                changes.notify()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await let_others_run()
        tasks.cancel_scope.cancel()
    assert seen == ["round", "round"]


async def test_two_loops_do_not_take_changes_from_each_other() -> None:
    changes, seen = Changes(), dict[str, int]()

    async def follow(name: str) -> None:
        async for _ in changes:
            seen[name] = seen.get(name, 0) + 1
            if seen[name] == 2:
                return

    async with anyio.create_task_group() as tasks:
        for name in ("a", "b"):
            tasks.start_soon(follow, name)
        await let_others_run()
        assert seen == {"a": 1, "b": 1}
        changes.notify()
    assert seen == {"a": 2, "b": 2}


def test_changes_can_be_told_before_any_event_loop_runs() -> None:
    changes = Changes()
    changes.notify()

    async def wait() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(changes.wait)
            await let_others_run()
            changes.notify()

    anyio.run(wait)
