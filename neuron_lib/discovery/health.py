"""Keeps the latest readings of this host's devices in memory, so that `/health` never waits for a tool."""

import logging

import anyio

from neuron_lib.discovery.tool import RunTool, run_tool
from neuron_lib.discovery.vendors import ask_readings
from neuron_lib.types import DeviceHealth

__all__ = ("DeviceMonitor",)

logger: logging.Logger = logging.getLogger(__name__)


class DeviceMonitor:
    """Polls the devices while `run` runs, and for each `refresh`. There is one poll at a time.

    Lives as long as the service. Belongs to the event loop.
    """

    def __init__(self, *, interval_s: float = 5.0, run: RunTool = run_tool) -> None:
        self._interval_s = interval_s
        self._run_tool = run
        self._readings: tuple[DeviceHealth, ...] = ()
        self._problem: str | None = None
        self._polling = anyio.Lock()
        self._polls = 0

    def readings(self) -> tuple[DeviceHealth, ...]:
        """The last good readings, from memory. Empty before the first reading and on a host without GPUs."""
        return self._readings

    def fresh_readings(self) -> tuple[DeviceHealth, ...]:
        """The last readings, none if the tool has failed since."""
        return () if self._problem else self._readings

    async def run(self) -> None:
        """Poll until cancelled, the first time after one interval. Returns early if there is no tool to ask.

        A failed poll keeps the last readings. Of a row of failures only the first and the end are logged.
        """
        has_tool = True
        while has_tool:
            await anyio.sleep(self._interval_s)
            async with self._polling:
                has_tool = await self._poll()

    async def refresh(self) -> None:
        """Return when a poll that began after this call has ended, whether it succeeded or not.

        Takes some seconds at most. Callers that ask while a poll runs share the next poll, because the current one may
        have read the devices before they asked.
        """
        polls_before = self._polls
        async with self._polling:
            if self._polls == polls_before:
                await self._poll()

    async def _poll(self) -> bool:
        """Read the devices once. False: there is no tool to ask."""
        self._polls += 1
        answer = await ask_readings(self._run_tool)
        if answer is None:
            return False
        readings, problem = answer.readings, answer.problem
        if problem and not self._problem:
            logger.warning("device readings are stale: %s", problem)
        elif self._problem and not problem:
            logger.info("device readings are fresh again")
        self._problem = problem
        if readings:
            self._readings = readings
        return True
