"""Bounds of a JSON text, checked on its bytes before anybody decodes it. Pure.

The cost of decoding depends on the number of values and not on the number of bytes. Two million bytes may be one
string. They may also be a million lists, which take more than a second of processor time and a hundred megabytes.
"""

import re
from itertools import accumulate
from typing import Final

from neuron_lib.errors import InvalidRequest

__all__ = ("MAX_NESTING", "MAX_VALUES", "MalformedJson", "check_nesting_and_numbers", "check_values", "refusal")

MAX_VALUES: Final = 100_000
"""The most values in one body. Strings, numbers, arrays and objects count, at every depth. A decoder takes up to 30 ms
for this many.
"""

MAX_NESTING: Final = 100
"""The deepest nesting of the parts of a body that may have any form."""

_FRAME: Final = b'[]{},"'
_NO_FRAME: Final = bytes(byte for byte in range(256) if byte not in _FRAME)
_STEPS: Final = bytes({ord("["): 1, ord("{"): 1, ord("]"): 255, ord("}"): 255}.get(byte, 0) for byte in range(256))
"""By how much each byte changes the depth of nesting, as a signed byte."""

_DIGITS: Final = bytes(ord("9") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG: Final = b"9" * 19
_LONG_INTEGER: Final = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_SMALLEST_INT: Final = -(2**63)
_LARGEST_INT: Final = 2**64 - 1
_MOST_DIGITS: Final = 20


class MalformedJson(InvalidRequest):
    """The body is not JSON or not UTF-8, or it has too many values or is nested too deeply."""

    code = "malformed_json"
    quotes_request = False


def refusal(
    place: str, problem: str, *, quoting: str = "", kind: type[InvalidRequest] = InvalidRequest
) -> InvalidRequest:
    """The error about the value at `place`. `quoting` quotes the client: the answer has this text, the log has not."""
    text = f"{place}: {problem}"
    return kind(text + quoting, param=place, summary=text)


def check_values(text: bytes, *, most: int = MAX_VALUES, place: str | None = None) -> None:
    """Raise `MalformedJson` if `text` has more than `most` values. `place` is its path, None for the whole body.

    Takes a few milliseconds for 2 MiB, whatever the bytes are. The text need not be JSON.
    """
    if _count(text) <= most:
        return  # the usual case: there are few enough even if commas and brackets in strings are counted
    frame = _frame(text)
    # A value has at most two strings: itself and its key.
    if frame.count(b'"') > 4 * (most + 1) or _count(_outside_strings(frame)) > most:
        problem = f"more than {most} values (strings, numbers, arrays, objects)"
        if place is not None:
            raise refusal(place, problem, kind=MalformedJson)
        summary = f"the body holds {problem}"
        raise MalformedJson(summary, summary=summary)


def check_nesting_and_numbers(text: bytes, *, param: str) -> None:
    """Check JSON that may have any form. `check_values` has been called for it.

    Raises `MalformedJson` for nesting beyond `MAX_NESTING`, and `InvalidRequest` for an integer beyond 64 bits, which
    the rest of the library cannot carry.
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
    """The number of values in JSON without strings: each bracket begins one value, and each comma begins one more."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _without_escapes(text: bytes) -> bytes:
    """The text without escaped backslashes and quotation marks. Every quotation mark left begins or ends a string."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _frame(text: bytes) -> bytes:
    """Only brackets, commas and quotation marks, inside of strings and outside."""
    # Two adjacent quotation marks are an empty string, or an end and a beginning. Either way both may be removed.
    return _without_escapes(text).translate(None, _NO_FRAME).replace(b'""', b"")


def _outside_strings(unescaped: bytes) -> bytes:
    return b"".join(unescaped.split(b'"')[::2])


def _is_too_large(digits: bytes) -> bool:
    return len(digits) > _MOST_DIGITS or not _SMALLEST_INT <= int(digits) <= _LARGEST_INT
