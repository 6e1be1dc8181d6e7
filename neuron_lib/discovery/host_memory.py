"""How much memory and how many CPUs this host has, and what is left of them. Reads a few small files of the kernel.

Blocking, for a moment: the kernel may have to add up the memory of many control groups.
"""

import os
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from neuron_lib.cgroups import allowed_by_cgroups, cpus_of_cgroups, limit_of_cgroups
from neuron_lib.types import HostCpus, HostMemory
from neuron_lib.usable_memory import MEMINFO, parse_meminfo

__all__ = ("now_cpus", "now_memory", "read_cpus", "read_memory")

_MIB: Final = 1 << 20


def read_memory(meminfo: Path = MEMINFO) -> HostMemory | None:
    """The memory of this host, without what changes. None where the kernel does not say it."""
    memory = now_memory(meminfo)
    return memory and HostMemory(total_mb=memory.total_mb, limit_mb=memory.limit_mb)


def now_memory(meminfo: Path = MEMINFO) -> HostMemory | None:
    """The memory of this host and what is left of it now. None where the kernel does not say it."""
    try:
        sizes = parse_meminfo(meminfo.read_text("ascii", errors="replace"))
    except OSError:
        return None
    total = sizes.get("MemTotal")
    if total is None:
        return None
    return HostMemory(
        total_mb=total // _MIB,
        available_mb=_mib(sizes.get("MemAvailable")),
        limit_mb=_mib(limit_of_cgroups()),
        limit_available_mb=_mib(allowed_by_cgroups()),
    )


def read_cpus() -> HostCpus:
    """The CPUs of this host, without what changes."""
    usable = len(os.sched_getaffinity(0))
    limit = cpus_of_cgroups()
    return HostCpus(online=os.cpu_count() or usable, usable=usable, limit=None if limit is None else round(limit, 2))


def now_cpus() -> HostCpus:
    """The CPUs of this host and how busy they are now."""
    try:
        load_1m = round(os.getloadavg()[0], 2)
    except OSError:  # a sandbox without /proc
        load_1m = None
    return replace(read_cpus(), load_1m=load_1m)


def _mib(size: int | None) -> int | None:
    return None if size is None else size // _MIB
