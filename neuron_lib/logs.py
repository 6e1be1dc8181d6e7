"""The loggers of this package. The message of a record ends with the record's fields, so that every handler shows them.

`logger.info("model loaded", extra={"model_id": "org/a"})` is `model loaded model_id=org/a` in the log of every program
that embeds the library. The fields are attributes of the record as well, for handlers that write JSON.
"""

import logging
from collections.abc import Mapping
from typing import Any

from neuron_lib.shown import LONGEST_CHAIN, clip, fields_line, printable

__all__ = ("FieldLogger", "Message", "get_logger")


class Message:
    """The message of a record: text, and fields behind it. It is formatted only when a handler asks for it.

    As a string it is one line of bounded length without control characters.
    """

    __slots__ = ("_args", "_fields", "_text")

    def __init__(self, text: str, args: tuple[Any, ...], fields: Mapping[str, object]) -> None:
        self._text = text
        self._args = args
        self._fields = fields

    def __str__(self) -> str:
        return self.without()

    def without(self, *names: str) -> str:
        """The message with its fields, except the fields of these `names`."""
        fields = {name: value for name, value in self._fields.items() if name not in names}
        return f"{self.text} {fields_line(fields)}" if fields else self.text

    @property
    def text(self) -> str:
        """The message without its fields."""
        return printable(clip(self._text % self._args if self._args else self._text, LONGEST_CHAIN))


class FieldLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that writes the fields of `extra` behind the message."""

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log `msg % args`, as `logging.Logger.log` does."""
        if self.isEnabledFor(level):
            message = Message(str(msg), args, options.get("extra") or {})
            # One level more: `logging` called this method, and the record must name the caller of `logging`.
            self.logger.log(level, message, stacklevel=options.pop("stacklevel", 1) + 1, **options)


def get_logger(name: str) -> FieldLogger:
    """The logger of the module `name`, which is its `__name__`."""
    return FieldLogger(logging.getLogger(name))
