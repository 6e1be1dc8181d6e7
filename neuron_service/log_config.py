"""Logs for the journal: one line per record on stderr, the fields of a record behind its message."""

import json
import logging
import sys
from typing import Final

__all__ = ("configure_logging",)

_STANDARD_FIELDS: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's, for terminals
}
_CONTROL: Final = dict.fromkeys(range(32)) | {127: None}


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


def configure_logging(level: str) -> None:
    """Send records of `level` and above to stderr. Raises ValueError for a level that logging does not know."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn", "httpx", "httpx2", "httpcore", "filelock", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
