"""Logs for the journal: one line per record on stderr, the fields of a record behind its message."""

import contextlib
import json
import logging
import sys
from queue import Full, Queue
from threading import Thread
from typing import Final, TextIO

__all__ = ("configure_logging",)

_STANDARD_FIELDS: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's, for terminals
}
_CONTROL: Final = dict.fromkeys(range(32)) | {127: None}
_MOST_WAITING: Final = 4096
_FLUSH_LIMIT_S: Final = 1.0


def _quoted(value: object) -> str:
    """A value without spaces as it is, any other in quotes, so that a reader can tell where it ends."""
    text = str(value)
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)


class _LineFormatter(logging.Formatter):
    """`2026-01-31 12:00:00,000 INFO  logger: message key=value`; a record cannot forge a second line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={_quoted(value)}" for name, value in record.__dict__.items() if name not in _STANDARD_FIELDS]
        line = f"{self.formatTime(record)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        text = " ".join([line, *fields]).translate(_CONTROL)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _BackgroundHandler(logging.Handler):
    """Writes from a thread of its own, so that somebody who stops reading our stderr does not stop us.

    Beyond `most_waiting` records are dropped; how many is said in their place, once there is room again.
    """

    def __init__(self, stream: TextIO | None, *, most_waiting: int = _MOST_WAITING) -> None:
        """`stream` is None where the process was started without one."""
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
                line = f"({self._dropped} records were dropped here: nobody read them)\n{line}"
            self._waiting.put_nowait(line)
            self._dropped = 0
        except Full:
            self._dropped += 1
        except Exception:  # noqa: BLE001 - a record that cannot be formatted is logging's to report
            self.handleError(record)

    def flush(self) -> None:
        """Wait until what was logged is written, but not for ever."""
        if self._stream is not None:
            with self._waiting.all_tasks_done:
                self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, _FLUSH_LIMIT_S)

    def _write(self, stream: TextIO) -> None:
        while True:
            line = self._waiting.get()
            with contextlib.suppress(OSError, ValueError):  # its reader is gone, or it is closed: nobody to tell
                stream.write(line + "\n")
                stream.flush()
            self._waiting.task_done()


def configure_logging(level: str) -> None:
    """Send records of `level` and above to stderr. Raises ValueError for a level that logging does not know."""
    handler = _BackgroundHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "httpx", "httpx2", "httpcore", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
