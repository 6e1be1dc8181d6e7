"""Loads as events in the course of time; the time is virtual, so these run on trio alone."""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from trio.testing import MockClock

from neuron_lib import LoadProgress, LoadStage, ModelSpec, Registry
from neuron_lib.errors import LoadCancelled, ShuttingDown
from neuron_service.loading_events import LoadingEvents
from tests.fakes.driven_harness import DrivenHarness
from tests.fakes.log_lines import said
from tests.fakes.wire_shapes import read_loading

pytestmark = pytest.mark.anyio

A = "org/a"


@pytest.fixture
def clock() -> MockClock:
    return MockClock()


@pytest.fixture
def anyio_backend(clock: MockClock) -> tuple[str, dict[str, MockClock]]:
    return "trio", {"clock": clock}


class Watcher:
    """A client that follows the loads of a host on which one model loads. Plays the ASGI server as well."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.harness = DrivenHarness()
        self.registry = Registry([self.harness])
        self.sent: list[dict[str, Any]] = []
        self.can_read = anyio.Event()
        self.can_read.set()
        self.returned = anyio.Event()

    async def load(self) -> None:
        with contextlib.suppress(LoadCancelled, ShuttingDown):
            await self.registry.load(ModelSpec(model_id=A, harness="driven"))

    async def watch(self) -> None:
        scope: Any = {"method": "GET", "path": "/models/loading/events", "headers": []}
        await LoadingEvents(self.registry)(scope, self._receive, self._send)
        self.returned.set()

    async def _receive(self) -> Any:
        await anyio.sleep_forever()

    async def _send(self, message: Any) -> None:
        await self.can_read.wait()
        self.sent.append(message)

    async def after(self, seconds: float) -> None:
        """Let time pass, and run all tasks that waited for it."""
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    def report(self, percent: int) -> None:
        self.harness.reports[A](LoadProgress(stage=LoadStage.DOWNLOADING, bytes=percent, total_bytes=100))

    def chunks(self) -> list[bytes]:
        """The chunks of the answer since the last call."""
        chunks = [message["body"] for message in self.sent if message["type"] == "http.response.body"]
        self.sent.clear()
        return chunks

    def percents(self) -> list[int | None]:
        """The progress of the load in each event since the last call. None for an event without a load."""
        bodies = [chunk.removeprefix(b"event: loading\ndata: ").removesuffix(b"\n\n") for chunk in self.chunks()]
        return [loads[0].progress.bytes if loads else None for loads in map(read_loading, bodies)]  # type: ignore[misc]


@pytest.fixture
def watcher(clock: MockClock) -> Watcher:
    return Watcher(clock)


@asynccontextmanager
async def watched_load(watcher: Watcher) -> AsyncIterator[None]:
    """A load at 0 %. The client has seen its first event, a second ago."""
    async with anyio.create_task_group() as tasks, watcher.registry:
        tasks.start_soon(watcher.load)
        await wait_all_tasks_blocked()
        watcher.report(0)
        tasks.start_soon(watcher.watch)
        await wait_all_tasks_blocked()
        assert watcher.percents() == [0]
        await watcher.after(1.0)
        assert watcher.chunks() == []
        yield
        tasks.cancel_scope.cancel()


async def test_a_change_after_a_quiet_time_is_sent_at_once(watcher: Watcher) -> None:
    async with watched_load(watcher):
        watcher.report(10)
        await wait_all_tasks_blocked()
        assert watcher.percents() == [10]


async def test_of_changes_within_a_quarter_of_a_second_only_the_last_is_sent(watcher: Watcher) -> None:
    async with watched_load(watcher):
        watcher.report(1)
        await wait_all_tasks_blocked()
        for percent in range(2, 20):
            watcher.report(percent)
            await wait_all_tasks_blocked()
        assert watcher.percents() == [1]
        await watcher.after(0.24)
        assert watcher.percents() == []
        await watcher.after(0.01)
        assert watcher.percents() == [19]


async def test_the_end_of_a_load_is_sent_even_right_after_another_change(watcher: Watcher) -> None:
    async with watched_load(watcher):
        watcher.report(99)
        await wait_all_tasks_blocked()
        watcher.harness.finish()
        await watcher.after(0.25)
        assert watcher.percents() == [99, None]


async def test_at_most_four_events_are_sent_in_a_second(watcher: Watcher) -> None:
    async with watched_load(watcher):
        for tick in range(1, 101):
            watcher.report(tick)
            await watcher.after(0.01)
        assert watcher.percents() == [1, 26, 51, 76]


async def test_a_comment_is_sent_after_each_fifteen_seconds_of_silence(watcher: Watcher) -> None:
    async with watched_load(watcher):
        for _ in range(3):
            await watcher.after(14.0)
            await watcher.after(1.0)
            assert watcher.chunks() == [b":\n\n"]
        watcher.report(10)
        await wait_all_tasks_blocked()
        assert watcher.percents() == [10]


async def test_the_events_end_when_the_host_drains_with_nothing_loading(watcher: Watcher) -> None:
    async with watched_load(watcher):
        watcher.registry.close_admission()
        await wait_all_tasks_blocked()
        await watcher.after(0.25)
        assert watcher.returned.is_set()
        last = watcher.sent[-1]
        assert (last["body"], last["more_body"]) == (b"", False)
        assert watcher.chunks() == [b"event: loading\ndata: []\n\n", b""]


async def test_a_client_that_reads_nothing_for_a_minute_is_given_up(
    watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with watched_load(watcher):
        watcher.can_read = anyio.Event()
        watcher.report(10)
        await wait_all_tasks_blocked()
        for second in range(45):
            await watcher.after(1.0)
            watcher.report(20 + second)
        assert not watcher.returned.is_set()
        for _ in range(30):
            await watcher.after(1.0)
        assert watcher.returned.is_set()
        assert "client stopped reading, it is told of loads no more" in map(said, caplog.records)


async def test_a_client_that_does_not_take_a_comment_is_given_up(watcher: Watcher) -> None:
    async with watched_load(watcher):
        watcher.can_read = anyio.Event()
        await watcher.after(14.0)
        await watcher.after(59.0)
        assert not watcher.returned.is_set()
        await watcher.after(1.0)
        assert watcher.returned.is_set()


async def test_a_client_that_reads_again_in_time_gets_the_latest_state(watcher: Watcher) -> None:
    async with watched_load(watcher):
        watcher.can_read = anyio.Event()
        watcher.report(10)
        await wait_all_tasks_blocked()
        await watcher.after(30.0)
        watcher.report(20)
        watcher.can_read.set()
        await wait_all_tasks_blocked()
        await watcher.after(0.25)
        assert watcher.percents() == [10, 20]
