"""Measures how much GPU memory one model takes, and waits until all of it is free again."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from neuron_lib.discovery.memory import ReadMemory, wait_memory_back

__all__ = ("DeviceMemory",)

_RETURN_LIMIT_S: Final = 4.0
"""Seconds. The driver frees the memory of a process soon after its end. The registry waits for 20 s in all."""
_READING_LIMIT_S: Final = 2.0
"""Seconds for one reading while a model loads or ends. A tool that hangs in a driver must leave time for the engine's
end.
"""


class DeviceMemory:
    """Wrap `returned` around the engine's life, and inside it `taken` around the time in which the model is loaded.

    Memory that other models take or free in these moments counts as this model's. If no reading succeeds in time, as on
    a host without GPUs, there is no wait: the end of the process must then be enough.
    """

    def __init__(self, read: ReadMemory, *, return_limit_s: float = _RETURN_LIMIT_S) -> None:
        self._read = read
        self._return_limit_s = return_limit_s
        self._empty_mb: int | None = None
        self._loaded_mb: int | None = None
        self._full_mb: int | None = None

    @property
    def taken_mb(self) -> int | None:
        """What the model takes on its GPUs in MiB, by the driver's readings before and after the load. None without
        such readings.
        """
        if self._empty_mb is None or self._loaded_mb is None or self._loaded_mb <= self._empty_mb:
            return None
        return self._loaded_mb - self._empty_mb

    @asynccontextmanager
    async def returned(self) -> AsyncIterator[None]:
        """At the end of the block, wait until the driver shows the memory as free. No wait if the block ends by an
        error.
        """
        self._empty_mb = await self._reading()
        yield
        if self._empty_mb is not None and self._loaded_mb is not None and self._full_mb is not None:
            await wait_memory_back(
                self._read,
                before_mb=self._full_mb,
                expected_mb=self._loaded_mb - self._empty_mb,
                limit_s=self._return_limit_s,
            )

    @asynccontextmanager
    async def taken(self, *, is_unchanged: Callable[[], bool]) -> AsyncIterator[None]:
        """The model is loaded during the block. At its end `is_unchanged` says whether the engine is still the one of
        the beginning.
        """
        self._loaded_mb = await self._reading()
        yield
        has_died = not is_unchanged()
        self._full_mb = await self._reading()
        if has_died and self._loaded_mb is not None and self._full_mb is not None:
            # The memory of that engine is free again. Its successor has taken no more than this.
            self._loaded_mb = min(self._loaded_mb, self._full_mb)

    async def _reading(self) -> int | None:
        with anyio.move_on_after(_READING_LIMIT_S):
            return await self._read()
        return None
