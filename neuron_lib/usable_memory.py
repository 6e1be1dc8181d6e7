"""How much memory of this host the processes of the service may take together: what there is, as far as the control
groups allow it. Asks the kernel, and knows nothing of models.

Blocking, for a moment: a few small files of the kernel are read.
"""

import os
from pathlib import Path
from typing import Final

from neuron_lib.cgroups import allowed_by_cgroups, limit_of_cgroups

__all__ = ("MEMINFO", "free_bytes", "parse_meminfo", "usable_bytes")

MEMINFO: Final = Path("/proc/meminfo")


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


def parse_meminfo(text: str) -> dict[str, int]:
    """The sizes in `/proc/meminfo`, in bytes, by their names. Lines without a size are left out."""
    fields = (line.split() for line in text.splitlines())
    return {
        row[0].removesuffix(":"): int(row[1]) << 10
        for row in fields
        if len(row) == 3 and row[2] == "kB" and row[1].isdecimal()
    }
