"""What one model takes of its GPUs' memory, and the wait until all of it is back."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

from neuron_lib.discovery.memory import ReadMemory, wait_memory_back

__all__ = ("DeviceMemory",)

_RETURN_LIMIT_S: Final = 4.0
"""The driver takes back what a process had within moments of its end; the registry waits for 20 s in all."""
_READING_LIMIT_S: Final = 2.0
"""For one reading while a model loads or goes: a tool that hangs in a driver must leave the engine's end its time."""


class DeviceMemory:
    """Wrap `returned` around the engine's life and, inside, `taken` around the time in which the model is loaded.

    Whatever else loads or unloads in those moments is counted as this model's. Where nothing can be read in time, as on
    a host without GPUs, nothing is waited for: there the end of the process is the proof.
    """

    def __init__(self, read: ReadMemory, *, return_limit_s: float = _RETURN_LIMIT_S) -> None:
        self._read = read
        self._return_limit_s = return_limit_s
        self._empty_mb: int | None = None
        self._loaded_mb: int | None = None
        self._full_mb: int | None = None

    @asynccontextmanager
    async def returned(self) -> AsyncIterator[None]:
        """The memory is visibly back when the block has ended, unless it ended by an error."""
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
        """The model is loaded during the block; `is_unchanged` says at its end whether by the engine of its begin."""
        self._loaded_mb = await self._reading()
        yield
        has_died = not is_unchanged()
        self._full_mb = await self._reading()
        if has_died and self._loaded_mb is not None and self._full_mb is not None:
            # What that one took is back; whatever came after it has taken no more than this.
            self._loaded_mb = min(self._loaded_mb, self._full_mb)

    async def _reading(self) -> int | None:
        with anyio.move_on_after(_READING_LIMIT_S):
            return await self._read()
        return None
