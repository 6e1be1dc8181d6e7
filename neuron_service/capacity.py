"""How much memory the models of this host may take together. Asks the kernel; decides nothing about models."""

from collections.abc import Sequence

from neuron_lib.types import Device
from neuron_lib.usable_memory import usable_bytes

__all__ = ("capacity_bytes", "gpu_memory_by_index", "host_memory_bytes")


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
