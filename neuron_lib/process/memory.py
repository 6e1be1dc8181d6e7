"""How much memory the program of a model takes, as far as anybody knows before the start, and whether that is free."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

import anyio.to_thread

from neuron_lib import usable_memory
from neuron_lib.errors import PreflightFailed
from neuron_lib.sizes import format_size
from neuron_lib.sources.store import LocalModel

__all__ = ("estimated_needs", "require_fit")

_HOST: Final = "cpu"
_MORE: Final = 1.2
"""A program takes a fifth more than the files of its model, if nobody says what it takes."""


def estimated_needs(local: LocalModel | None, devices: Sequence[int]) -> dict[str, int]:
    """The bytes by the name of the device, by the size of the files. Empty if there are none. Pure."""
    if local is None or not local.size_bytes:
        return {}
    names = [f"gpu{index}" for index in devices] or [_HOST]
    return dict.fromkeys(names, int(local.size_bytes * _MORE) // len(names))


async def require_fit(
    needs: Mapping[str, int],
    *,
    model_id: str,
    gpu_memory_mb: Sequence[int],
    read_memory: Callable[[Collection[int]], Awaitable[int | None]],
) -> None:
    """Raises `PreflightFailed` for a model that needs more of a device than is free. A device that cannot be read, or
    that is not there, has what is needed: the program will say what it lacks.
    """
    for device, needed_bytes in needs.items():
        free_bytes = await _free_bytes(device, gpu_memory_mb, read_memory)
        if free_bytes is not None and needed_bytes > free_bytes:
            raise PreflightFailed.of_memory(
                f"{model_id} needs {format_size(needed_bytes)} of {device}, and {format_size(free_bytes)} are free; "
                "`memory` of its [[harnesses]] entry says what a model takes",
                model_id=model_id,
                device=device,
                needed_bytes=needed_bytes,
                free_bytes=free_bytes,
            )


async def _free_bytes(
    device: str, gpu_memory_mb: Sequence[int], read_memory: Callable[[Collection[int]], Awaitable[int | None]]
) -> int | None:
    if device == _HOST:
        return await anyio.to_thread.run_sync(usable_memory.free_bytes)
    index = int(device.removeprefix("gpu"))
    if index >= len(gpu_memory_mb) or not gpu_memory_mb[index]:
        return None
    used_mb = await read_memory((index,))
    return None if used_mb is None else (gpu_memory_mb[index] - used_mb) << 20
