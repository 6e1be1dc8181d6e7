"""Numbers as words for people. Pure."""

from typing import Final

from neuron_lib.sizes import MB, format_rounded, size_unit

__all__ = ("MIB", "ago", "counted", "duration", "mib_of", "speed")

MIB: Final = 1 << 20
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def duration(seconds: float) -> str:
    """A time for people: `12 s`, `3 min 20 s`, `2 h 5 min`, `4 d 3 h`."""
    whole = int(seconds)
    for unit_s, unit, smaller_s, smaller in (
        (_DAY_S, "d", _HOUR_S, "h"),
        (_HOUR_S, "h", _MINUTE_S, "min"),
        (_MINUTE_S, "min", 1, "s"),
    ):
        if whole >= unit_s:
            rest = whole % unit_s // smaller_s
            return f"{whole // unit_s} {unit}{f' {rest} {smaller}' if rest else ''}"
    return f"{whole} s"


def ago(seconds: float) -> str:
    """How long ago something was: `now`, `12 s ago`, `3 min ago`. One unit is enough."""
    if seconds < 1:
        return "now"
    number, unit, *_ = duration(seconds).split()
    return f"{number} {unit} ago"


def mib_of(part_mib: int, whole_mib: int) -> str:
    """`1.2 of 2.9 GB`."""
    unit, name = size_unit(max(whole_mib * MIB, MB))
    part = format_rounded(part_mib * MIB / unit) if part_mib else "0"
    return f"{part} of {format_rounded(whole_mib * MIB / unit)} {name}"


def speed(tokens_per_s: float) -> str:
    """`41 tokens/s`. 0 means that nothing has been measured."""
    return f"{format_rounded(tokens_per_s)} tokens/s" if tokens_per_s else "not measured yet"


def counted(count: int, noun: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
