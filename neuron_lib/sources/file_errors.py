"""What an error of the operating system about a file means for a load. Raises nothing itself."""

import errno
from typing import Final

from neuron_lib.errors import PreflightFailed, PreflightKind, SourceUnavailable

__all__ = ("file_error", "is_exhausted")

_EXHAUSTED: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_exhausted(error: OSError) -> bool:
    """Whether this host was out of descriptors, memory or processes, which says nothing about the file and passes."""
    return error.errno in _EXHAUSTED


def file_error(error: OSError, message: str, *, model_id: str) -> PreflightFailed | SourceUnavailable:
    """What to raise for a file that cannot be opened or read.

    `FILE_NOT_FOUND`, or `SourceUnavailable` where a retry may help.
    """
    if is_exhausted(error):
        return SourceUnavailable(message, model_id=model_id)
    return PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id)
