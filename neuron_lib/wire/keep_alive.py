"""The field `keep_alive`, as Ollama's clients send it: how long a model stays in memory after the request. Pure."""

import math
import re
from typing import Annotated, Final, TypeAlias

from msgspec import Meta

from neuron_lib.wire.json_bounds import refusal

__all__ = ("KeepAlive", "read_keep_alive")

KeepAlive: TypeAlias = float | Annotated[str, Meta(max_length=64)]
"""Seconds, or a text such as `"5m"` or `"1h30m"`."""

_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)"
_DURATION: Final = re.compile(rf"(-?)((?:{_PART})+)", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


def read_keep_alive(value: KeepAlive | None) -> float | None:
    """The seconds, infinite for a negative value, which asks for ever. None if nothing was asked.

    Raises `InvalidRequest` for a text that is no duration.
    """
    if value is None:
        return None
    seconds = _seconds(value) if isinstance(value, str) else float(value)
    return math.inf if seconds < 0 else seconds


def _seconds(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    duration = _DURATION.fullmatch(text)
    if duration is None:
        raise refusal("keep_alive", 'Expected a number of seconds, or a duration such as "5m"')
    parts = re.findall(_PART, duration[2], re.ASCII)
    seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in parts)
    return -1.0 if duration[1] else seconds
