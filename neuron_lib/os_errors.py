"""What an error of the operating system means for the caller. Pure: raises nothing itself.

A host that is out of descriptors, memory, processes or threads is exhausted. Exhaustion passes, so the same try may
succeed later (`SourceUnavailable`). All other errors stay until somebody changes something (`LoadFailed`).
"""

import errno
import os
from typing import Final

from neuron_lib.errors import LoadFailed, PreflightFailed, PreflightKind, SourceUnavailable

__all__ = ("NO_THREAD", "file_error", "is_exhausted", "start_error")

NO_THREAD: Final = os.strerror(errno.EAGAIN)
"""The words that native code writes before it ends its process because the host has no thread for it."""
_EXHAUSTED: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_PYTHON_THREAD: Final = "can't start new thread"
"""The message of CPython's `RuntimeError` for the same. The error has no number."""


def is_exhausted(error: BaseException) -> bool:
    """Whether the error says that this host was out of descriptors, memory, processes or threads."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, RuntimeError) and str(error) == _NO_PYTHON_THREAD


def file_error(error: OSError, message: str, *, model_id: str) -> PreflightFailed | SourceUnavailable:
    """The error to raise for a file of a model that cannot be opened or read: `FILE_NOT_FOUND` unless it may pass."""
    if is_exhausted(error):
        return SourceUnavailable(message, model_id=model_id)
    return PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id)


def start_error(error: OSError, name: str, *, model_id: str) -> LoadFailed | SourceUnavailable:
    """The error to raise for a model whose process, called `name` in the message, cannot be started."""
    if is_exhausted(error):
        return SourceUnavailable(f"{model_id}: {name} cannot be started", model_id=model_id)
    return LoadFailed(f"{name} cannot be started", model_id=model_id)
