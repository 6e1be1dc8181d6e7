"""Ties a child process to the one that started it, by the kernel. Knows nothing of what either is for."""

import ctypes
import os
import signal
from typing import Final

__all__ = ("end_with_parent",)

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process with the thread that started it, even if it is stopped or holds the GIL.

    `parent` is the process id of that thread; if it is gone already, this process ends here.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was too late for that
        os._exit(0)
