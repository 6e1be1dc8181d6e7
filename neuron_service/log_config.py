"""Logs for the journal, for a terminal or for a program. Each record is one line on stderr, with its fields."""

import contextlib
import json
import logging
import logging.handlers
import math
import sys
import time
from collections.abc import Iterator, Mapping
from queue import Full, Queue
from threading import Thread
from typing import Any, Final, Literal, TextIO, TypeAlias

from neuron_lib.logs import Message
from neuron_lib.shown import CHAIN_FIELD, LONGEST_CHAIN, LONGEST_QUOTE, bounded, clip, printable
from neuron_service.journal import ERROR_PRIORITY, is_journal, with_priority

__all__ = ("LogFormat", "configure_logging", "hold_records", "set_level")

LogFormat: TypeAlias = Literal["text", "json"]
"""`text` is for people and for the journal. `json` is one object for each record, for programs."""

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
        return _last_lines(self.formatException(record.exc_info)) if record.exc_info else iter(())


class _JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "logger": …, "message": …, "field": …}`, in ASCII. A traceback is in `exception`.

    For the journal the line begins with its priority as well. The journal removes the priority again.
    """

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _text(record),
        }
        fields = {name: _plain(name, value) for name, value in _fields(record).items() if name not in told}
        if record.exc_info:
            fields["exception"] = "\n".join(_last_lines(self.formatException(record.exc_info)))
        line = json.dumps(told | fields, default=str)
        return with_priority(line, _priority(record.levelno)) if self._for_journal else line

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """The time is that of UTC."""
        return time.gmtime(seconds)


def _last_lines(traceback: str) -> Iterator[str]:
    """The last lines of a traceback that fit into the limit, because the last lines say what went wrong."""
    kept: list[str] = []
    room = _LONGEST_TRACEBACK
    for line in reversed(traceback.splitlines()):
        shown = clip(printable(line), _LONGEST_TRACEBACK_LINE)
        room -= len(shown)
        if room < 0:
            kept.append("(the beginning of this traceback is left out)")
            break
        kept.append(shown)
    return reversed(kept)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS}


def _message(record: logging.LogRecord) -> str:
    """The message of a record, with its fields. The messages of this project have their fields already."""
    if isinstance(record.msg, Message):
        return record.getMessage()
    return str(Message(record.getMessage(), (), _fields(record)))


def _text(record: logging.LogRecord) -> str:
    """The message of a record, without its fields."""
    return record.msg.text if isinstance(record.msg, Message) else Message(record.getMessage(), (), {}).text


def _plain(name: str, value: object) -> object:
    """A field as JSON can have it: small, and without numbers that JSON does not know."""
    match value:
        case str():
            return printable(clip(value, LONGEST_CHAIN if name == CHAIN_FIELD else LONGEST_QUOTE))
        case bool() | int() | None:
            return bounded(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case dict():
            return {printable(clip(str(key))): _plain("", each) for key, each in bounded(value).items()}
        case list() | tuple():
            return [_plain("", each) for each in bounded(value)]
        case _:
            return printable(clip(str(value)))


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


def hold_records(level: str) -> None:
    """Keep records of `level` and above until `configure_logging` writes them. Raises ValueError for an unknown level.

    For the time in which nobody knows yet how the log is to be written.
    """
    _send_to(logging.handlers.MemoryHandler(_MOST_WAITING), level)  # keeps its records, because it has no target


def configure_logging(level: str, *, log_format: LogFormat = "text", environ: Mapping[str, str] | None = None) -> None:
    """Send records of `level` and above to stderr, and first those that `hold_records` has kept.

    If `environ` says that the journal reads stderr, lines have priorities, and those of the format `text` no time
    stamps. Raises ValueError for an unknown level.
    """
    for_journal = is_journal(sys.stderr, environ or {})
    handler = _BackgroundHandler(sys.stderr)
    handler.setFormatter((_JsonFormatter if log_format == "json" else _LineFormatter)(for_journal=for_journal))
    held = [each for each in logging.getLogger().handlers if isinstance(each, logging.handlers.MemoryHandler)]
    _send_to(handler, level)
    for each in held:
        for record in each.buffer:
            handler.handle(record)


def _send_to(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    set_level(level)
    for noisy in ("uvicorn", "httpx", "httpx2", "httpcore", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_level(level: str) -> None:
    """Drop records below `level` from now on. Raises ValueError for an unknown level."""
    logging.getLogger().setLevel(level.upper())
