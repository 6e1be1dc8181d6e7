"""Checks by the driver's own numbers that a model's GPU memory is free again. Only reads: ends and frees nothing."""

from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias

import anyio

from neuron_lib.discovery.tool import RunTool, run_tool
from neuron_lib.discovery.vendors import ask_readings
from neuron_lib.logs import FieldLogger, get_logger

__all__ = ("ReadMemory", "is_memory_back", "read_memory_used_mb", "wait_memory_back")

logger: FieldLogger = get_logger(__name__)

ReadMemory: TypeAlias = Callable[[], Awaitable[int | None]]
"""Reads how much memory of a model's devices is taken by all programs together, in MiB. None: it cannot be read now."""

_SMALL_MB: Final = 64
"""The driver may keep or round away this much."""


async def read_memory_used_mb(devices: Collection[int], *, run: RunTool = run_tool) -> int | None:
    """The memory of all `devices` together that is taken, in MiB, as the driver says. None if a device is not named."""
    answer = await ask_readings(run)
    if answer is None or answer.problem is not None:
        return None
    used = {reading.index: reading.vram_used_mb for reading in answer.readings}
    return sum(used[index] for index in devices) if used.keys() >= set(devices) else None


def is_memory_back(*, before_mb: int, now_mb: int, expected_mb: int) -> bool:
    """Whether the use of memory fell by `expected_mb`. A tenth of that, or 64 MiB, may be missing."""
    return before_mb - now_mb >= expected_mb - max(_SMALL_MB, expected_mb // 10)


async def wait_memory_back(
    read: ReadMemory, *, before_mb: int, expected_mb: int, limit_s: float, interval_s: float = 0.25
) -> bool:
    """Read every `interval_s` until the use has fallen by about `expected_mb` from `before_mb`; then return True.

    Call this after the engine's process has been reaped: the driver frees the memory some time after that. If `limit_s`
    passes first, a warning with the numbers is logged, and the answer is False. Another program may have taken the
    memory in the meantime. Cancelling the caller ends the wait.
    """
    now_mb: int | None = None
    with anyio.move_on_after(limit_s):
        while True:
            reading = await read()
            now_mb = now_mb if reading is None else reading
            if reading is not None and is_memory_back(before_mb=before_mb, now_mb=reading, expected_mb=expected_mb):
                return True
            await anyio.sleep(interval_s)
    logger.warning(
        "GPU memory of an unloaded model is not visibly back after %g s",
        limit_s,
        extra={"before_mb": before_mb, "now_mb": now_mb, "expected_mb": expected_mb},
    )
    return False
