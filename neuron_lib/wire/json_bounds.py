"""Bounds the number of values and the depth of a JSON text, from its bytes alone, before the text is decoded.

The cost of decoding depends on the number of values and not of bytes. Two million bytes may be one string, or a million
lists that take more than a second of processor time and a hundred megabytes.
"""

import re
from itertools import accumulate
from typing import Final

from neuron_lib.errors import InvalidRequest

__all__ = (
    "MAX_NESTING",
    "MAX_VALUES",
    "MalformedJson",
    "check_nesting_and_numbers",
    "check_u64",
    "check_values",
    "refusal",
)

MAX_VALUES: Final = 100_000
"""The most values in a body: strings, numbers, arrays and objects, at any depth. Decoding so many takes up to 30 ms."""

MAX_NESTING: Final = 100
"""The deepest nesting of a part that may have any form."""

_FRAME: Final = b'[]{},"'
_NO_FRAME: Final = bytes(byte for byte in range(256) if byte not in _FRAME)
_STEPS: Final = bytes({ord("["): 1, ord("{"): 1, ord("]"): 255, ord("}"): 255}.get(byte, 0) for byte in range(256))
"""The change of depth at each bracket, as signed bytes."""

_DIGITS: Final = bytes(ord("9") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG: Final = b"9" * 19
_LONG_INTEGER: Final = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_SMALLEST_INT: Final = -(2**63)
_LARGEST_INT: Final = 2**64 - 1
_MOST_DIGITS: Final = 20


class MalformedJson(InvalidRequest):
    """The body is not JSON or not UTF-8, has too many values, or is nested too deeply."""

    code = "malformed_json"
    quotes_request = False


def refusal(
    place: str, problem: str, *, quoting: str = "", kind: type[InvalidRequest] = InvalidRequest
) -> InvalidRequest:
    """The error about the value at the path `place`. The client gets `quoting`, which it wrote; the log does not."""
    text = f"{place}: {problem}"
    return kind(text + quoting, param=place, summary=text)


def check_u64(number: int | None, place: str) -> None:
    """Raise `InvalidRequest` if the number at `place` is above the unsigned 64-bit integers.

    msgspec's `Meta` cannot say so: its bounds are signed 64-bit integers.
    """
    if (number or 0) > _LARGEST_INT:
        raise refusal(place, f"Expected `int` <= {_LARGEST_INT}")


def check_values(text: bytes, *, most: int = MAX_VALUES, place: str | None = None) -> None:
    """Raise `MalformedJson` if `text` has more than `most` values. `place` is its path, None for the whole body.

    Takes a few milliseconds for 2 MiB of any content. The text need not be JSON.
    """
    if _count(text) <= most:
        return  # the usual case: even with the commas and brackets inside strings there are not too many
    frame = _frame(text)
    # A value has at most two strings, the value itself and its key, so at most four quotation marks.
    if frame.count(b'"') > 4 * (most + 1) or _count(_outside_strings(frame)) > most:
        problem = f"more than {most} values (strings, numbers, arrays, objects)"
        if place is not None:
            raise refusal(place, problem, kind=MalformedJson)
        summary = f"the body holds {problem}"
        raise MalformedJson(summary, summary=summary)


def check_nesting_and_numbers(text: bytes, *, param: str) -> None:
    """Check a part that may have any form, after its values have been counted. `param` is its path.

    Raises `MalformedJson` if it is nested deeper than `MAX_NESTING`, and `InvalidRequest` for an integer beyond 64
    bits. The rest of the library could not process either.
    """
    may_be_deep = text.count(b"[") + text.count(b"{") > MAX_NESTING
    if may_be_deep:
        steps = memoryview(_outside_strings(_frame(text)).translate(_STEPS, b",")).cast("b")
        if max(accumulate(steps), default=0) > MAX_NESTING:
            raise refusal(param, f"nested deeper than {MAX_NESTING} levels", kind=MalformedJson)
    if _LONG in text.translate(_DIGITS):
        outside = _outside_strings(_without_escapes(text))
        if any(map(_is_too_large, _LONG_INTEGER.findall(outside))):
            raise refusal(param, "an integer does not fit in 64 bits")


def _count(text: bytes) -> int:
    """The number of values in JSON without strings. An opening bracket has a first value, a comma has a next one."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _without_escapes(text: bytes) -> bytes:
    """The text without escaped backslashes and quotation marks, so that each quotation mark begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _frame(text: bytes) -> bytes:
    """The brackets, commas and quotation marks of a text. The quotation marks say what is inside a string."""
    # Two adjacent quotation marks enclose nothing and change nothing for what follows.
    return _without_escapes(text).translate(None, _NO_FRAME).replace(b'""', b"")


def _outside_strings(unescaped: bytes) -> bytes:
    return b"".join(unescaped.split(b'"')[::2])


def _is_too_large(digits: bytes) -> bool:
    return len(digits) > _MOST_DIGITS or not _SMALLEST_INT <= int(digits) <= _LARGEST_INT
