"""Logs for the journal or for a terminal. Each record is one line on stderr, with its fields after its message."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from queue import Full, Queue
from threading import Thread
from typing import Final, TextIO

from neuron_lib.logs import Message
from neuron_lib.shown import clip, printable
from neuron_service.journal import ERROR_PRIORITY, is_journal, with_priority

__all__ = ("configure_logging", "set_level")

_STANDARD_FIELDS: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn sets it, for terminals
}
_MOST_WAITING: Final = 4096
_FLUSH_LIMIT_S: Final = 1.0
_LONGEST_TRACEBACK_LINE: Final = 500
_LONGEST_TRACEBACK: Final = 16_000
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, ERROR_PRIORITY), (logging.WARNING, 4), (logging.INFO, 6))
"""Python's levels as syslog's priorities, which sd-daemon(3) reads in front of a line. Lower levels are 7, debug."""


class _LineFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000+01:00 INFO    logger: message key=value`. A record cannot forge a second line.

    For the journal each line begins with its priority instead, as `<6>`. The journal has a time stamp of its own.
    """

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{self._begin(record)}{record.name}: {_message(record)}", *self._traceback(record)]
        if self._for_journal:
            priority = _priority(record.levelno)
            lines = [with_priority(line, priority) for line in lines]
        return "\n".join(lines)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """Local time with its distance from UTC, in the form of ISO 8601."""
        local = time.localtime(record.created)
        zone = time.strftime("%z", local)
        return f"{time.strftime(datefmt or '%Y-%m-%dT%H:%M:%S', local)}.{int(record.msecs):03}{zone[:3]}:{zone[3:]}"

    def _begin(self, record: logging.LogRecord) -> str:
        return "" if self._for_journal else f"{self.formatTime(record)} {record.levelname:<7} "

    def _traceback(self, record: logging.LogRecord) -> Iterator[str]:
        """The last lines of a traceback that fit into the limit, because the last lines say what went wrong."""
        if not record.exc_info:
            return iter(())
        kept: list[str] = []
        room = _LONGEST_TRACEBACK
        for line in reversed(self.formatException(record.exc_info).splitlines()):
            shown = clip(printable(line), _LONGEST_TRACEBACK_LINE)
            room -= len(shown)
            if room < 0:
                kept.append("(the beginning of this traceback is left out)")
                break
            kept.append(shown)
        return reversed(kept)


def _message(record: logging.LogRecord) -> str:
    """The message of a record, with its fields. The messages of this project have their fields already."""
    if isinstance(record.msg, Message):
        return record.getMessage()
    fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}
    return str(Message(record.getMessage(), (), fields))


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)


class _BackgroundHandler(logging.Handler):
    """Writes records in a thread of its own, so that the process goes on if the reader of stderr stops reading.

    If `most_waiting` records wait, further records are dropped. As soon as there is room, a line says how many.
    """

    def __init__(self, stream: TextIO | None, *, most_waiting: int = _MOST_WAITING) -> None:
        """`stream` is None if the process was started without one."""
        super().__init__()
        self._waiting: Queue[str] = Queue(most_waiting)
        self._dropped = 0
        self._stream = stream
        if stream is not None:
            self._writer = Thread(target=self._write, args=(stream,), name="log", daemon=True)
            self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._stream is None:
            return
        try:
            line = self.format(record)
            if self._dropped:
                text = "(%d records were dropped here: nobody read them)"
                notice = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (self._dropped,), None)
                line = f"{self.format(notice)}\n{line}"
            self._waiting.put_nowait(line)
            self._dropped = 0
        except Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001 - logging reports a record that cannot be formatted
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all records so far are written, but no longer than `_FLUSH_LIMIT_S`."""
        if self._stream is not None:
            with self._waiting.all_tasks_done:
                self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, _FLUSH_LIMIT_S)

    def _write(self, stream: TextIO) -> None:
        while True:
            line = self._waiting.get()
            with contextlib.suppress(OSError, ValueError):  # the stream is closed or its reader has gone
                stream.write(line + "\n")
                stream.flush()
            self._waiting.task_done()


def configure_logging(level: str, *, environ: Mapping[str, str] | None = None) -> None:
    """Send records of `level` and above to stderr.

    If `environ` says that the journal reads stderr, lines have priorities, otherwise time stamps. Raises ValueError for
    an unknown level.
    """
    handler = _BackgroundHandler(sys.stderr)
    handler.setFormatter(_LineFormatter(for_journal=is_journal(sys.stderr, environ or {})))
    root = logging.getLogger()
    root.handlers = [handler]
    set_level(level)
    for noisy in ("uvicorn", "httpx", "httpx2", "httpcore", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Drop records below `level` from now on. Raises ValueError for an unknown level."""
    logging.getLogger().setLevel(level.upper())
