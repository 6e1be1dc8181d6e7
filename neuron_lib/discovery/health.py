"""Keeps the latest readings of this host's devices in memory, so that nobody waits for a tool to answer `/health`."""

import logging

import anyio

from neuron_lib.discovery.nvidia import HEALTH_QUERY, parse_device_health
from neuron_lib.discovery.tool import RunTool, run_tool
from neuron_lib.types import DeviceHealth

__all__ = ("DeviceMonitor",)

logger = logging.getLogger(__name__)


class DeviceMonitor:
    """Polls the devices while `run` runs. One task runs it; anyone may read."""

    def __init__(self, *, interval_s: float = 5.0, run: RunTool = run_tool) -> None:
        self._interval_s = interval_s
        self._run_tool = run
        self._readings: tuple[DeviceHealth, ...] = ()
        self._problem: str | None = None

    def readings(self) -> tuple[DeviceHealth, ...]:
        """Return the last good readings; empty before the first and on a host without GPUs. Memory only."""
        return self._readings

    async def run(self) -> None:
        """Poll until cancelled, the first time after one interval; returns then if there is no tool to ask.

        A failed poll keeps the last readings. Only the first of a row of failures is logged, and their end.
        """
        while True:
            await anyio.sleep(self._interval_s)
            output = await self._run_tool(HEALTH_QUERY)
            if output is None:
                return
            readings = parse_device_health(output.stdout) if output.problem is None else ()
            problem = output.problem or (None if readings else "nvidia-smi lists no device")
            if problem and not self._problem:
                logger.warning("device readings are stale: %s", problem)
            elif self._problem and not problem:
                logger.info("device readings are fresh again")
            self._problem = problem
            if readings:
                self._readings = readings
