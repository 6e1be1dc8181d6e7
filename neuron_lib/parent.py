"""How a child process depends on the one that started it: it ends with it, and leaves signals to it.

Knows nothing of what either is for.
"""

import ctypes
import os
import signal
from typing import Final

__all__ = ("end_with_parent", "leave_signals_to_parent")

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process with the thread that started it, even if it is stopped or holds the GIL.

    `parent` is the process id of that thread; if it is gone already, this process ends here.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was too late for that
        os._exit(0)


def leave_signals_to_parent() -> None:
    """Ignore what a terminal or a service manager sends to all processes of a service at once.

    A hang-up or an interrupt is for the parent to judge, which ends this process when it is time.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
