"""Proves that a model's GPU memory is back, by the driver's own numbers. Reads; ends and frees nothing itself."""

from collections.abc import Awaitable, Callable, Collection
from typing import Final, TypeAlias

import anyio

from neuron_lib.discovery.nvidia import HEALTH_QUERY, parse_device_health
from neuron_lib.discovery.tool import RunTool, run_tool
from neuron_lib.logs import get_logger

__all__ = ("ReadMemory", "is_memory_back", "read_memory_used_mb", "wait_memory_back")

logger = get_logger(__name__)

ReadMemory: TypeAlias = Callable[[], Awaitable[int | None]]
"""Reads how much memory of a model's devices is taken, in MiB, by whomever; None when it cannot be read now."""

_SMALL_MB: Final = 64
"""What the driver keeps or rounds away, and nobody misses."""


async def read_memory_used_mb(devices: Collection[int], *, run: RunTool = run_tool) -> int | None:
    """Ask the driver how much memory of `devices` is taken together, in MiB; None if it does not say it of each."""
    output = await run(HEALTH_QUERY)
    if output is None or output.problem is not None:
        return None
    used = {reading.index: reading.vram_used_mb for reading in parse_device_health(output.stdout)}
    return sum(used[index] for index in devices) if used.keys() >= set(devices) else None


def is_memory_back(*, before_mb: int, now_mb: int, expected_mb: int) -> bool:
    """Whether the use fell by what a model of `expected_mb` took, up to a tenth of it or 64 MiB."""
    return before_mb - now_mb >= expected_mb - max(_SMALL_MB, expected_mb // 10)


async def wait_memory_back(
    read: ReadMemory, *, before_mb: int, expected_mb: int, limit_s: float, interval_s: float = 0.25
) -> bool:
    """Read every `interval_s` until the use has fallen by about `expected_mb` from `before_mb`.

    Call it when the engine's process has been reaped: the driver takes its memory back some time after that. Returns
    False, after a warning with the numbers, when `limit_s` passed without it: another program may have taken what
    came back.
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
