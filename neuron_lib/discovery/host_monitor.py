"""Keeps the latest readings of this host's memory and CPUs, so that `/health` reads no file."""

import logging
from collections.abc import Callable
from typing import TypeAlias

import anyio.to_thread

from neuron_lib.discovery.host_memory import now_cpus, now_memory
from neuron_lib.types import HostCpus, HostMemory

__all__ = ("HostMonitor", "HostReading", "read_host")

logger: logging.Logger = logging.getLogger(__name__)

HostReading: TypeAlias = tuple[HostMemory | None, HostCpus | None]
"""The memory and the CPUs. None for what is not known."""


def read_host() -> HostReading:
    """Read the memory and the CPUs now. Blocking, for a moment."""
    return now_memory(), now_cpus()


class HostMonitor:
    """Reads this host while `run` runs, the first time at once. Lives as long as the service, on the event loop."""

    def __init__(self, *, interval_s: float = 5.0, read: Callable[[], HostReading] = read_host) -> None:
        self._interval_s = interval_s
        self._read = read
        self._reading: HostReading = (None, None)

    def reading(self) -> HostReading:
        """The last reading, from memory. Nones before the first one."""
        return self._reading

    async def run(self) -> None:
        """Read until cancelled, in a thread. A reading that hangs delays only the next one, and one that fails is left
        out: `/health` then shows the one before.
        """
        is_failing = False
        while True:
            try:
                self._reading = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
                is_failing = False
            except Exception:  # no fault in a file of the kernel ends the service
                if not is_failing:
                    logger.exception("the memory and the CPUs of this host cannot be read")
                is_failing = True
            await anyio.sleep(self._interval_s)
