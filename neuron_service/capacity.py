"""How much memory the models of this host may take together. Asks the kernel; decides nothing about models."""

import os
from collections.abc import Sequence

from neuron_lib.cgroups import limit_of_cgroups

__all__ = ("capacity_bytes", "host_memory_bytes")


def host_memory_bytes(configured_mb: int) -> int:
    """The bytes of the host's memory that models may take: those configured (MiB), if they are not 0.

    Otherwise nine tenths of what the host has, or of what the control groups of this process allow if that is less. The
    rest is for the daemon and for everything else.
    """
    if configured_mb:
        return configured_mb << 20
    installed, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), limit_of_cgroups()
    return (installed if limit is None else min(installed, limit)) * 9 // 10


def capacity_bytes(host_bytes: int, gpu_memory_mb: Sequence[int]) -> dict[str, int]:
    """The bytes of each device. A GPU that says no size has no memory of its own, and no limit here."""
    gpus = {f"gpu{index}": total_mb << 20 for index, total_mb in enumerate(gpu_memory_mb) if total_mb}
    return {"cpu": host_bytes, **gpus}
