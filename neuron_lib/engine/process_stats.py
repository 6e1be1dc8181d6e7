"""What a beat tells of this process: the memory it has, and what was read from disks for it."""

import resource
from pathlib import Path
from typing import Final

__all__ = ("bytes_read", "bytes_resident")

_PAGE_BYTES: Final = resource.getpagesize()
_STATM: Final = Path("/proc/self/statm")
_IO: Final = Path("/proc/self/io")


def bytes_resident() -> int:
    """Memory that is not swapped out, pages of files included."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def bytes_read(io: Path = _IO) -> int:
    """All that was read from storage for this process so far, by page faults too; 0 where the kernel does not count."""
    try:
        counts = dict(line.split(": ") for line in io.read_text(encoding="ascii").splitlines())
        return int(counts["read_bytes"])
    except (OSError, KeyError, ValueError):
        return 0
