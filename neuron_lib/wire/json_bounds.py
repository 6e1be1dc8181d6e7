"""How much a JSON text may hold, found out from its bytes alone, before anybody decodes it.

What decoding costs is decided by the number of values, not of bytes: two million bytes may be one string, or a million
lists that take more than a second of processor time and a hundred megabytes.
"""

import re
from itertools import accumulate
from typing import Final

from neuron_lib.errors import InvalidRequest

__all__ = ("MAX_NESTING", "MAX_VALUES", "MalformedJson", "check_nesting_and_numbers", "check_values", "refusal")

MAX_VALUES: Final = 100_000
"""Values in a body: strings, numbers, arrays, objects and what is in them. A decoder takes up to 30 ms for so many."""

MAX_NESTING: Final = 100
"""How deep the free-form parts of a body may be nested."""

_FRAME: Final = b'[]{},"'
_NO_FRAME: Final = bytes(byte for byte in range(256) if byte not in _FRAME)
_STEPS: Final = bytes({ord("["): 1, ord("{"): 1, ord("]"): 255, ord("}"): 255}.get(byte, 0) for byte in range(256))
"""Of nesting, as signed bytes."""

_DIGITS: Final = bytes(ord("9") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG: Final = b"9" * 19
_LONG_INTEGER: Final = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_SMALLEST_INT: Final = -(2**63)
_LARGEST_INT: Final = 2**64 - 1
_MOST_DIGITS: Final = 20


class MalformedJson(InvalidRequest):
    """The body is not JSON, not UTF-8, or holds too much or too deep a structure to be read."""

    code = "malformed_json"
    quotes_request = False


def refusal(
    place: str, problem: str, *, quoting: str = "", kind: type[InvalidRequest] = InvalidRequest
) -> InvalidRequest:
    """The error about the value at `place`. `quoting` is what the client wrote: it is told, and the log is not."""
    text = f"{place}: {problem}"
    return kind(text + quoting, param=place, summary=text)


def check_values(text: bytes, *, most: int = MAX_VALUES, place: str | None = None) -> None:
    """Raise `MalformedJson` if `text` has more than `most` values; `place` is its path, None for the whole body.

    Takes a few milliseconds for 2 MiB, whatever is in there, and does not mind text that is no JSON.
    """
    if _count(text) <= most:
        return  # most texts: even with what their strings hold there are not so many
    frame = _frame(text)
    # A value has two strings at most, itself and its key.
    if frame.count(b'"') > 4 * (most + 1) or _count(_outside_strings(frame)) > most:
        problem = f"more than {most} values (strings, numbers, arrays, objects)"
        if place is not None:
            raise refusal(place, problem, kind=MalformedJson)
        summary = f"the body holds {problem}"
        raise MalformedJson(summary, summary=summary)


def check_nesting_and_numbers(text: bytes, *, param: str) -> None:
    """Refuse free-form JSON that the rest of the library could not carry; its values have been counted.

    Raises `MalformedJson` for nesting beyond `MAX_NESTING`, `InvalidRequest` for an integer beyond 64 bits.
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
    """How many values there are in JSON without strings: a bracket opens with the first, a comma leads to the next."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _without_escapes(text: bytes) -> bytes:
    """The text without the escapes that matter to where a string ends."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text


def _frame(text: bytes) -> bytes:
    """Brackets and commas, in strings and outside, and the quotation marks that tell which is which."""
    # Two quotation marks side by side have nothing between them, and behind them all is as it was before them.
    return _without_escapes(text).translate(None, _NO_FRAME).replace(b'""', b"")


def _outside_strings(unescaped: bytes) -> bytes:
    return b"".join(unescaped.split(b'"')[::2])


def _is_too_large(digits: bytes) -> bool:
    return len(digits) > _MOST_DIGITS or not _SMALLEST_INT <= int(digits) <= _LARGEST_INT
