"""Sizes in bytes as people read them. MB and GB are decimal (10⁶ and 10⁹ bytes), as on disks and on model pages."""

from typing import Final

__all__ = ("MB", "format_rounded", "format_size", "size_unit")

MB: Final = 10**6
_GB: Final = 10**9


def format_size(size_bytes: float) -> str:
    """`98 MB`, `4.7 GB`."""
    unit, name = size_unit(size_bytes)
    return f"{format_rounded(size_bytes / unit)} {name}"


def size_unit(size_bytes: float) -> tuple[int, str]:
    """The unit for a size, in bytes and by name: GB from 1 GB on, MB below."""
    return (_GB, "GB") if size_bytes >= _GB else (MB, "MB")


def format_rounded(value: float) -> str:
    """Two significant digits below 10, whole numbers from there on."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
