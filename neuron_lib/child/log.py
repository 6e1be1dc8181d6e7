"""Turns the lines that a child process writes into log records of this process."""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream

from neuron_lib.child.lines import parse_line
from neuron_lib.logs import FieldLogger
from neuron_lib.os_errors import NO_THREAD

__all__ = ("ChildLog",)

_LONGEST_LINE_BYTES: Final = 1 << 20
"""The longest part of a line that is kept. The rest of the line is dropped."""
_TRACEBACK: Final = "Traceback (most recent call last):"
_MOST_LOOSE_LINES: Final = 8
_LONGEST_COMPLAINT: Final = 1000


class ChildLog:
    """Passes each line on to a logger, and remembers the lines that may say why the process ended.

    Processes of this library write the lines of `child.lines`. Every other line is *loose*: native code or the
    interpreter wrote it without the child's logger. A loose line gets `loose_level`. Each record has the `fields`.
    `clean` takes secrets out of a line, before the line is cut to `longest_line` characters. `death_marks` are words
    that native code writes when it ends the process. `admits` is asked before each record is logged: a line that it
    refuses is remembered and not logged.
    """

    def __init__(
        self,
        logger: FieldLogger,
        *,
        fields: Mapping[str, object],
        clean: Callable[[str], str] = str,
        longest_line: int = 8192,
        loose_level: int = logging.WARNING,
        death_marks: tuple[str, ...] = (),
        admits: Callable[[], bool] = lambda: True,
    ) -> None:
        self.last_line: str | None = None
        """The last line that is not blank, of any level."""
        self.last_words: str | None = None
        """The last grave line: an error, or a line with a death mark.

        While the child is loading this is the first grave line. It names the cause, and later ones are consequences.
        """
        self._logger: Final = logger
        self._fields: Final = dict(fields)
        self._clean: Final = clean
        self._longest_line: Final = longest_line
        self._loose_level: Final = loose_level
        self._death_marks: Final = death_marks
        self._admits: Final = admits
        self._is_loading = True
        self._tail: deque[str] = deque(maxlen=_MOST_LOOSE_LINES)
        self._loose: list[str] = []  # while loading; of a traceback only the error

    def words_before(self, returncode: int | None) -> str | None:
        """The lines that explain an end with this `returncode`. None if there are none.

        These are the last loose lines if there is no grave line and the exit status is above 0: an interpreter that
        cannot start writes its error without any logger.
        """
        if self.last_words is None and returncode is not None and returncode > 0:
            return " ".join(self._loose)[:_LONGEST_COMPLAINT] or None
        return self.last_words

    @property
    def tail(self) -> str:
        """The last lines of any kind, in one text."""
        return " | ".join(self._tail)[-_LONGEST_COMPLAINT:]

    @property
    def tells_of_no_thread(self) -> bool:
        """Whether native code ended the process because this host had no thread for it."""
        return self.last_words is not None and NO_THREAD in self.last_words

    def mark_loaded(self) -> None:
        """Forget the grave lines so far, because the child has loaded in spite of them."""
        self._is_loading = False
        self.last_words = None
        self._loose.clear()

    async def read(self, output: ByteReceiveStream) -> None:
        """Read an output of the child until its other end is closed. Several outputs may be read at the same time."""
        pending = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                first, *others = (await output.receive()).split(b"\n")
                pending += first[: _LONGEST_LINE_BYTES - len(pending)]
                for start in others:
                    self.take(pending.decode("utf-8", "replace"))
                    pending = start

    def take(self, line: str) -> None:
        """Take one line, without its end."""
        level, message, request_id = parse_line(line)
        message = self._clean(message).rstrip()[: self._longest_line]
        if not message.strip():
            return
        self._note(level, message)
        if not self._admits():
            return
        fields = self._fields | {"request_id": request_id} if request_id else self._fields
        self._logger.log(self._loose_level if level is None else level, "%s", message, extra=fields)

    def _note(self, level: int | None, message: str) -> None:
        self.last_line = message.strip()
        self._tail.append(self.last_line)
        if level is None:
            self._note_loose(message)
        is_grave = (level or 0) >= logging.ERROR or any(mark in message for mark in self._death_marks)
        if is_grave and (not self._is_loading or self.last_words is None):
            self.last_words = message.strip()

    def _note_loose(self, line: str) -> None:
        if line.startswith(_TRACEBACK):
            self._loose.clear()
        elif self._is_loading and not line.startswith(" "):  # the places of a traceback are indented
            self._loose.append(line.strip())
            del self._loose[:-_MOST_LOOSE_LINES]
