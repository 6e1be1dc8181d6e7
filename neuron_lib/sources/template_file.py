"""Reads the chat template that an operator keeps in a file. Blocking. Does not look at what the text means."""

import os
import stat
from pathlib import Path
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("MAX_TEMPLATE_BYTES", "read_chat_template")

MAX_TEMPLATE_BYTES: Final = 1 << 20
"""Room for all the characters a template may have, whatever they are."""


def read_chat_template(path: Path, *, model_id: str) -> str:
    """Return the text of `path`, the `chat_template` of that model. Raises `PreflightFailed`, which names the key."""
    try:
        with open(path, "rb", opener=_open) as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_TEMPLATE_BYTES + 1) if is_regular else b""
    except OSError as error:
        raise _unusable(path, error.strerror or str(error), model_id) from error
    if not is_regular:
        raise _unusable(path, "not a regular file", model_id)
    if len(content) > MAX_TEMPLATE_BYTES:
        raise _unusable(path, f"longer than {MAX_TEMPLATE_BYTES} bytes", model_id)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unusable(path, f"not UTF-8 text (byte {error.start})", model_id) from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # without which opening a named pipe would wait for a writer


def _unusable(path: Path, problem: str, model_id: str) -> PreflightFailed:
    message = f"the `chat_template` of {model_id!r} cannot be read: {path}: {problem}"
    return PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id)
