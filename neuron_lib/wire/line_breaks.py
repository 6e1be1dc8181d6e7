"""Keeps JSON on one line for every reader, whatever the reader takes for the end of a line."""

from typing import Final

__all__ = ("escape_line_breaks",)

_FIRST_OF_SEPARATORS: Final = b"\xe2\x80"
_ESCAPES: Final = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))


def escape_line_breaks(json_text: bytes) -> bytes:
    """The same JSON with U+2028, U+2029 and U+0085 as escapes.

    JSON allows these characters in strings. But Python's `splitlines`, and clients that use it, would cut an event
    there. All other line breaks are control characters, which JSON escapes anyway.
    """
    if _FIRST_OF_SEPARATORS in json_text or b"\xc2\x85" in json_text:
        for character, escape in _ESCAPES:
            json_text = json_text.replace(character, escape)
    return json_text
