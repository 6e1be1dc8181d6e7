"""The standard streams of the process: open, and able to print any text."""

import codecs
import io
import os
import sys
from typing import Final, TextIO

__all__ = ("open_missing_streams", "take_any_text")

_ANY_TEXT: Final = "neuron-any-text"
_MODES: Final = {"stdin": "r", "stdout": "w", "stderr": "w"}
_ESCAPED: Final = range(0xDC80, 0xDD00)
"""How Python has a byte of a file name that is not UTF-8."""


def open_missing_streams() -> None:
    """Open /dev/null for each standard stream that the process was started without.

    Otherwise the next file that is opened would get the number of a standard stream. A child process that is given
    streams of its own would then lose that file.
    """
    for fd, (name, mode) in enumerate(_MODES.items()):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, `fd`
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a descriptor


def take_any_text(stream: TextIO) -> None:
    """Have a stream print each text, whatever its encoding.

    The name of a file keeps its bytes. Any other character that the encoding lacks becomes a question mark.
    """
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error(_ANY_TEXT, _instead)
        stream.reconfigure(errors=_ANY_TEXT)


def _instead(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written in place of the first character that cannot be."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    return bytes([code - 0xDC00]) if code in _ESCAPED else b"?", error.start + 1
