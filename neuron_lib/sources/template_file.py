"""Reads the chat template that an operator keeps in a file. Blocking. Does not parse the text."""

import os
import stat
from pathlib import Path
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.os_errors import file_error

__all__ = ("MAX_TEMPLATE_BYTES", "read_chat_template")

MAX_TEMPLATE_BYTES: Final = 1 << 20
"""Enough bytes for the most characters that a template may have, whatever they are."""


def read_chat_template(path: Path, *, model_id: str) -> str:
    """The text of `path`, the `chat_template` of that model.

    Raises `PreflightFailed`, which names the key, and `SourceUnavailable` while the host is out of descriptors or
    memory.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_TEMPLATE_BYTES + 1) if is_regular else b""
    except OSError as error:
        raise file_error(error, _describe(path, error.strerror or str(error), model_id), model_id=model_id) from error
    if not is_regular:
        raise _refusal(path, "not a regular file", model_id)
    if len(content) > MAX_TEMPLATE_BYTES:
        raise _refusal(path, f"longer than {MAX_TEMPLATE_BYTES} bytes", model_id)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(path, f"not UTF-8 text (byte {error.start})", model_id) from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # or opening a named pipe would wait


def _refusal(path: Path, problem: str, model_id: str) -> PreflightFailed:
    return PreflightFailed(PreflightKind.FILE_NOT_FOUND, _describe(path, problem, model_id), model_id=model_id)


def _describe(path: Path, problem: str, model_id: str) -> str:
    return f"the `chat_template` of {model_id!r} cannot be read: {path}: {problem}"
