"""Sizes as text for people. MB and GB are decimal (10⁶ and 10⁹ bytes), as on disks and on model pages."""

from typing import Final

__all__ = ("MB", "format_rounded", "format_size", "size_unit")

MB: Final = 10**6
_GB: Final = 10**9


def format_size(size_bytes: float) -> str:
    """A size as text: `98 MB`, `4.7 GB`."""
    unit, name = size_unit(size_bytes)
    return f"{format_rounded(size_bytes / unit)} {name}"


def size_unit(size_bytes: float) -> tuple[int, str]:
    """The unit for a size: its bytes and its name. GB from 1 GB on, MB below."""
    return (_GB, "GB") if size_bytes >= _GB else (MB, "MB")


def format_rounded(value: float) -> str:
    """One digit after the point below 10, whole numbers from 10 on."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
