"""Keeps the latest readings of this host's devices in memory, so that nobody waits for a tool to answer `/health`."""

import logging

import anyio

from neuron_lib.discovery.nvidia import HEALTH_QUERY, parse_device_health
from neuron_lib.discovery.tool import RunTool, run_tool
from neuron_lib.types import DeviceHealth

__all__ = ("DeviceMonitor",)

logger = logging.getLogger(__name__)


class DeviceMonitor:
    """Polls the devices while `run` runs, and whenever somebody asks for a `refresh`. One poll at a time."""

    def __init__(self, *, interval_s: float = 5.0, run: RunTool = run_tool) -> None:
        self._interval_s = interval_s
        self._run_tool = run
        self._readings: tuple[DeviceHealth, ...] = ()
        self._problem: str | None = None
        self._polling = anyio.Lock()
        self._polls = 0

    def readings(self) -> tuple[DeviceHealth, ...]:
        """Return the last good readings; empty before the first and on a host without GPUs. Memory only."""
        return self._readings

    async def run(self) -> None:
        """Poll until cancelled, the first time after one interval; returns then if there is no tool to ask.

        A failed poll keeps the last readings. Only the first of a row of failures is logged, and their end.
        """
        has_tool = True
        while has_tool:
            await anyio.sleep(self._interval_s)
            async with self._polling:
                has_tool = await self._poll()

    async def refresh(self) -> None:
        """Return when the readings are no older than this call, or when a poll that began after it has failed.

        Takes some seconds at most. Whoever asks while a poll runs shares the next one: the one that runs may have
        looked too early.
        """
        polls_before = self._polls
        async with self._polling:
            if self._polls == polls_before:
                await self._poll()

    async def _poll(self) -> bool:
        """Read once; False where there is no tool to ask."""
        self._polls += 1
        output = await self._run_tool(HEALTH_QUERY)
        if output is None:
            return False
        readings = parse_device_health(output.stdout) if output.problem is None else ()
        problem = output.problem or (None if readings else "nvidia-smi lists no device")
        if problem and not self._problem:
            logger.warning("device readings are stale: %s", problem)
        elif self._problem and not problem:
            logger.info("device readings are fresh again")
        self._problem = problem
        if readings:
            self._readings = readings
        return True
