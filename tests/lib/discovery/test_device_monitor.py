"""The readings behind `/health`: always there, never waited for, never lost to one bad answer."""

import logging
from collections.abc import Sequence

import anyio
import pytest

from neuron_lib.discovery import DeviceMonitor
from neuron_lib.discovery.nvidia import HEALTH_QUERY
from neuron_lib.discovery.tool import ToolOutput
from neuron_lib.types import DeviceHealth
from tests.fakes.turns import let_others_run

pytestmark = pytest.mark.anyio

COOL = DeviceHealth(index=0, vram_used_mb=1, vram_free_mb=2, utilization_pct=3, temp_c=40)
HOT = DeviceHealth(index=0, vram_used_mb=1, vram_free_mb=2, utilization_pct=99, temp_c=90)
COOL_ROW, HOT_ROW = ToolOutput("0, 1, 2, 3, 40\n"), ToolOutput("0, 1, 2, 99, 90\n")
FAILED, EMPTY = ToolOutput("", problem="nvidia-smi ended with exit status 9"), ToolOutput("garbage")


class ScriptedTool:
    """Answers with the scripted outputs, one each poll, then never again."""

    def __init__(self, *outputs: ToolOutput | None) -> None:
        self._outputs = list(outputs)
        self.is_done = anyio.Event()
        self.commands: list[Sequence[str]] = []

    async def __call__(self, command: Sequence[str]) -> ToolOutput | None:
        self.commands.append(command)
        if command[0] != "nvidia-smi":
            return None
        if not self._outputs:
            self.is_done.set()
            await anyio.sleep_forever()
        return self._outputs.pop(0)


async def readings_after(*outputs: ToolOutput) -> tuple[DeviceHealth, ...]:
    tool = ScriptedTool(*outputs)
    monitor = DeviceMonitor(interval_s=0, run=tool)
    assert monitor.readings() == ()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        await tool.is_done.wait()
        tasks.cancel_scope.cancel()
    assert set(tool.commands) == {HEALTH_QUERY}
    return monitor.readings()


async def test_the_latest_readings_are_shown() -> None:
    assert await readings_after(COOL_ROW, HOT_ROW) == (HOT,)


@pytest.mark.parametrize("bad", [FAILED, EMPTY])
async def test_a_failed_poll_keeps_the_last_readings_and_polling_goes_on(bad: ToolOutput) -> None:
    assert await readings_after(COOL_ROW, bad, bad) == (COOL,)
    assert await readings_after(COOL_ROW, bad, HOT_ROW) == (HOT,)


async def test_a_row_of_failures_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await readings_after(COOL_ROW, FAILED, EMPTY, FAILED, HOT_ROW, COOL_ROW)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_host_without_the_tool_is_asked_once() -> None:
    tool = ScriptedTool(None, COOL_ROW)
    monitor = DeviceMonitor(interval_s=0, run=tool)
    await monitor.run()
    assert monitor.readings() == ()
    assert [command[0] for command in tool.commands] == ["nvidia-smi", "rocm-smi", "xpu-smi"]


class HeldTool:
    """Every answer waits for `may_answer` and has the number of the poll as the memory that is taken."""

    def __init__(self) -> None:
        self.polls = 0
        self.is_asked = anyio.Event()
        self.may_answer = anyio.Event()

    async def __call__(self, _command: Sequence[str]) -> ToolOutput | None:
        self.polls += 1
        self.is_asked.set()
        number = self.polls
        await self.may_answer.wait()
        return ToolOutput(f"0, {number}, 2, 3, 40\n")


def memory_used(monitor: DeviceMonitor) -> int:
    return monitor.readings()[0].vram_used_mb


async def test_a_refresh_reads_at_once() -> None:
    tool = ScriptedTool(HOT_ROW)
    monitor = DeviceMonitor(run=tool)
    await monitor.refresh()
    assert monitor.readings() == (HOT,)


@pytest.mark.parametrize("bad", [FAILED, EMPTY, None])
async def test_a_refresh_that_fails_keeps_the_last_readings(bad: ToolOutput | None) -> None:
    monitor = DeviceMonitor(run=ScriptedTool(COOL_ROW, bad))
    await monitor.refresh()
    await monitor.refresh()
    assert monitor.readings() == (COOL,)


async def test_refreshes_share_the_poll_that_begins_after_all_of_them_and_trust_no_earlier_one() -> None:
    tool = HeldTool()
    monitor = DeviceMonitor(interval_s=0, run=tool)
    seen: list[int] = []

    async def refresh() -> None:
        await monitor.refresh()
        seen.append(memory_used(monitor))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(refresh)
        await let_others_run()
        for _ in range(3):
            tasks.start_soon(refresh)
        await let_others_run()
        assert tool.polls == 1
        tool.may_answer.set()
    assert seen == [1, 2, 2, 2]
    assert tool.polls == 2


async def test_a_refresh_waits_for_the_periodic_poll_and_then_reads_anew() -> None:
    tool = HeldTool()
    monitor = DeviceMonitor(interval_s=0, run=tool)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        await tool.is_asked.wait()
        tasks.start_soon(monitor.refresh)
        await let_others_run()
        assert tool.polls == 1
        tool.may_answer.set()
        await monitor.refresh()
        assert memory_used(monitor) >= 2
        tasks.cancel_scope.cancel()


async def test_a_refresh_that_is_given_up_leaves_the_next_one_free_to_read() -> None:
    tool = HeldTool()
    monitor = DeviceMonitor(run=tool)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.refresh)
        await let_others_run()
        tasks.cancel_scope.cancel()
    tool.may_answer.set()
    await monitor.refresh()
    assert memory_used(monitor) == 2
