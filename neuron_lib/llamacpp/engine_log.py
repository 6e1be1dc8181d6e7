"""What an engine process writes to its stderr, as records of this process."""

import errno
import logging
import os
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream

from neuron_lib.logs import get_logger

__all__ = ("EngineLog",)

engine_logger = get_logger("neuron_lib.engine")

_LONGEST_LOG_LINE: Final = 8192
_DEATH_MARKS: Final = ("GGML_ASSERT", "what():", "libgomp: ")
"""In lines that native code writes when it ends the process, past every logger."""
_NO_THREAD: Final = os.strerror(errno.EAGAIN)
"""The reason that both libgomp and C++ give before they end a process for want of a thread."""
_LEVELS: Final = logging.getLevelNamesMapping()
_TRACEBACK: Final = "Traceback (most recent call last):"
_MOST_LOOSE_LINES: Final = 8
_LONGEST_COMPLAINT: Final = 1000


class EngineLog:
    """Passes each line on to the logger `neuron_lib.engine`, and keeps the one that may tell of a death."""

    def __init__(self, *, model_id: str, pid: int) -> None:
        self.last_words: str | None = None
        """The last grave line; of those while the model is loaded, the first."""
        self._fields: Final = {"model_id": model_id, "pid": pid}
        self._is_loading = True
        self._loose: list[str] = []  # written past every logger; of a traceback only the error

    def words_before(self, exit_status: int | None) -> str | None:
        """What was said of an end with that status. An interpreter that could not begin complains past every logger."""
        if self.last_words is None and exit_status is not None and exit_status > 0:
            return " ".join(self._loose)[:_LONGEST_COMPLAINT] or None
        return self.last_words

    @property
    def tells_of_no_thread(self) -> bool:
        """Whether native code ended the process because this host had no thread for it."""
        return self.last_words is not None and _NO_THREAD in self.last_words

    def mark_loaded(self) -> None:
        """What was grave until now was none the less survived."""
        self._is_loading = False
        self.last_words = None
        self._loose.clear()

    async def read(self, stderr: ByteReceiveStream) -> None:
        """All of it, until its other end is closed."""
        pending = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                *lines, pending = (pending + await stderr.receive()).split(b"\n")
                for line in lines:
                    self._take(line.decode("utf-8", "replace")[:_LONGEST_LOG_LINE])
                pending = pending[-_LONGEST_LOG_LINE:]

    def _take(self, line: str) -> None:
        """One line of the engine's stderr: `LEVEL message`, or anything at all from native code."""
        name, _, message = line.partition(" ")
        level = _LEVELS.get(name)
        if level is None:
            level, message = logging.WARNING, line
            self._note_loose(line)
        if not message.strip():
            return
        is_grave = level >= logging.ERROR or any(mark in line for mark in _DEATH_MARKS)
        # While loading, the first error names the cause and the others are its consequences.
        if is_grave and (not self._is_loading or self.last_words is None):
            self.last_words = message.strip()
        engine_logger.log(level, "%s", message, extra=self._fields)

    def _note_loose(self, line: str) -> None:
        if line.startswith(_TRACEBACK):
            self._loose.clear()
        elif self._is_loading and line.strip() and not line.startswith(" "):  # the places of a traceback are indented
            self._loose.append(line.strip())
            del self._loose[:-_MOST_LOOSE_LINES]
