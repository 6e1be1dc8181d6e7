"""How much memory the models of this host may take together, and how much of that other programs leave them. Asks the
kernel; decides nothing about models.
"""

from collections.abc import Collection, Sequence

from anyio import to_thread

from neuron_lib.types import Device, DeviceHealth, ModelInfo
from neuron_lib.usable_memory import bytes_of_children, free_bytes, usable_bytes

__all__ = (
    "available_gpu_bytes",
    "available_host_bytes",
    "capacity_bytes",
    "gpu_memory_by_index",
    "host_memory_bytes",
)


def host_memory_bytes(configured_mb: int) -> int:
    """The bytes of the host's memory that models may take: those configured (MiB), if they are not 0.

    Otherwise nine tenths of what the host has, or of what the control groups of this process allow if that is less. The
    rest is for the daemon and for everything else.
    """
    return configured_mb << 20 if configured_mb else usable_bytes() * 9 // 10


def gpu_memory_by_index(devices: Sequence[Device]) -> tuple[int, ...]:
    """The memory in MiB of the GPUs 0, 1 and so on, 0 for one that the vendor's tool does not list.

    The tool leaves a broken GPU out, and the others keep their indices, by which loads name them.
    """
    sizes_mb = {device.index: device.vram_total_mb for device in devices}
    return tuple(sizes_mb.get(index, 0) for index in range(max(sizes_mb, default=-1) + 1))


def capacity_bytes(host_bytes: int, gpu_memory_mb: Sequence[int]) -> dict[str, int]:
    """The bytes of each device. A GPU that says no size has no memory of its own, and no limit here."""
    gpus = {f"gpu{index}": total_mb << 20 for index, total_mb in enumerate(gpu_memory_mb) if total_mb}
    return {"cpu": host_bytes, **gpus}


async def available_host_bytes() -> dict[str, int]:
    """The bytes of the host's memory that are free, and those that the engines have, by the name of the device. Empty
    where the kernel does not say it.

    The sum stays the same while an engine loads a model. What is free is read first. Memory that an engine takes
    between the two readings then counts twice. For a moment the sum is too large, which refuses no load.
    """

    def read() -> tuple[int | None, int | None]:
        return free_bytes(), bytes_of_children()

    free, taken = await to_thread.run_sync(read, abandon_on_cancel=True)
    return {} if free is None or taken is None else {"cpu": free + taken}


def available_gpu_bytes(readings: Collection[DeviceHealth], resident: Collection[ModelInfo]) -> dict[str, int]:
    """The bytes of each GPU that are free, and those that the `resident` models have, by the name of the device.

    A GPU with a model whose memory is not known is left out. A model on several GPUs counts as a whole on each of them.
    The sum is then too large, which refuses no load.
    """
    available: dict[str, int] = {}
    for reading in readings:
        taken_mb = [model.vram_used_mb for model in resident if reading.index in model.devices]
        known_mb = [size_mb for size_mb in taken_mb if size_mb is not None]
        if len(known_mb) == len(taken_mb):
            available[f"gpu{reading.index}"] = (reading.vram_free_mb + sum(known_mb)) << 20
    return available
