"""Tells a host without means from everything else that goes wrong: it says nothing about what was tried, and passes."""

import errno
from typing import Final

__all__ = ("is_exhausted",)

_EXHAUSTED: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_THREAD: Final = "can't start new thread"
"""All that Python says of it; its own error has no number."""


def is_exhausted(error: BaseException) -> bool:
    """Whether this host was out of descriptors, memory, processes or threads."""
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    return isinstance(error, RuntimeError) and str(error) == _NO_THREAD
