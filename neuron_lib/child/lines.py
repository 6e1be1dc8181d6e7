"""The lines that a child process of this library writes for its parent's log: `LEVEL message`. Pure.

A line about one request is `LEVEL request_id=ID message`. The parent makes a field of the id.
"""

import logging
from typing import Final, NamedTuple

from neuron_lib.logs import Message
from neuron_lib.shown import one_word

__all__ = ("ChildFormatter", "ChildLine", "parse_line")

_LEVELS: Final = logging.getLevelNamesMapping()
_ID: Final = "request_id="


class ChildFormatter(logging.Formatter):
    """Writes a record as such a line. The id is the field `request_id` of the record, if it is there and not empty."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without its traceback."""
        request_id = one_word(str(getattr(record, "request_id", "")))
        about = f"{_ID}{request_id} " if request_id else ""
        message = record.msg.without("request_id") if isinstance(record.msg, Message) else record.message
        return f"{record.levelname} {about}{message}"


class ChildLine(NamedTuple):
    """A line, taken apart. `level` is None for a line that was written without `ChildFormatter`."""

    level: int | None
    message: str
    request_id: str = ""


def parse_line(line: str) -> ChildLine:
    """Take a line apart."""
    name, _, message = line.partition(" ")
    level = _LEVELS.get(name)
    if level is None:
        return ChildLine(None, line)
    if message.startswith(_ID):
        request_id, _, message = message.removeprefix(_ID).partition(" ")
        return ChildLine(level, message, one_word(request_id))
    return ChildLine(level, message)
