"""The numbers about this process that a beat reports: its memory, and the bytes that were read from disks for it."""

import resource
from pathlib import Path
from typing import Final

__all__ = ("bytes_read", "bytes_resident")

_PAGE_BYTES: Final = resource.getpagesize()
_STATM: Final = Path("/proc/self/statm")
_IO: Final = Path("/proc/self/io")


def bytes_resident() -> int:
    """Bytes of memory that are not swapped out, pages of files included."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


def bytes_read(io: Path = _IO) -> int:
    """All bytes that were read from storage for this process so far, also by page faults. 0 if the kernel does not
    count them.
    """
    try:
        counts = dict(line.split(": ") for line in io.read_text(encoding="ascii").splitlines())
        return int(counts["read_bytes"])
    except (OSError, KeyError, ValueError):
        return 0
