"""How much memory of this host the processes of the service may take together: what there is, as far as the control
groups allow it. Asks the kernel, and knows nothing of models.

Blocking, for a moment: a few small files of the kernel are read.
"""

import os
from pathlib import Path
from typing import Final

from neuron_lib.cgroups import allowed_by_cgroups, limit_of_cgroups

__all__ = ("MEMINFO", "bytes_of_children", "free_bytes", "parse_meminfo", "usable_bytes")

MEMINFO: Final = Path("/proc/meminfo")
_PROC: Final = Path("/proc")
_OWN_MEMORY: Final = ("RssAnon", "RssShmem")


def usable_bytes() -> int:
    """The memory in bytes that may be taken, whether it is free or not."""
    installed, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), limit_of_cgroups()
    return installed if limit is None else min(installed, limit)


def free_bytes(meminfo: Path = MEMINFO) -> int | None:
    """The memory in bytes that can be taken now without swapping. None where the kernel does not say it."""
    try:
        available = parse_meminfo(meminfo.read_text("ascii", errors="replace")).get("MemAvailable")
    except OSError:
        return None
    allowed = allowed_by_cgroups()
    return available if available is None or allowed is None else min(available, allowed)


def bytes_of_children(proc: Path = _PROC) -> int | None:
    """The memory in bytes that would be free if the child processes of this process ended. None where the kernel does
    not list child processes.

    The pages of files that a process has mapped do not count: `free_bytes` counts them as free already.
    """
    try:
        lists = [(task / "children").read_text("ascii") for task in (proc / "self/task").iterdir()]
    except OSError:
        return None
    return sum(_own_bytes(proc / child / "status") for listed in lists for child in listed.split())


def _own_bytes(status: Path) -> int:
    try:
        sizes = parse_meminfo(status.read_text("ascii", errors="replace"))
    except OSError:  # it has ended
        return 0
    return sum(sizes.get(name, 0) for name in _OWN_MEMORY)


def parse_meminfo(text: str) -> dict[str, int]:
    """The sizes in `/proc/meminfo`, or in the `status` of a process, in bytes, by their names. Lines without a size are
    left out.
    """
    fields = (line.split() for line in text.splitlines())
    return {
        row[0].removesuffix(":"): int(row[1]) << 10
        for row in fields
        if len(row) == 3 and row[2] == "kB" and row[1].isdecimal()
    }
