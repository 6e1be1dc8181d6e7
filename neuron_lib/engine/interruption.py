"""Ends work that takes too long. Only in the main thread can Python code be interrupted, by a signal."""

import signal
import time
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from neuron_lib.errors import TemplateFailed

__all__ = ("GaveWay", "GivesWay", "never_gives_way", "within")

_LOOK_S: Final = 0.05

Result = TypeVar("Result")

GivesWay: TypeAlias = Callable[[float], bool]
"""`(seconds that the work has taken)` → whether it is to give way to other work. Called from a signal handler."""


class GaveWay(BaseException):
    """The work was given up for other work, and may be begun again. A template cannot catch this."""


class _TimeIsUp(BaseException):
    """The work was given up for good."""


def never_gives_way(_took_s: float) -> bool:
    """The `GivesWay` of work that is never given up for other work."""
    return False


def within(limit_s: float, work: Callable[[], Result], *, gives_way: GivesWay = never_gives_way) -> Result:
    """What `work` returns. Raises `TemplateFailed` once it takes longer than `limit_s`, `GaveWay` once it gives way.

    For the main thread only, because only the main thread may set signal handlers.
    """
    began = time.monotonic()
    is_running = True

    def look(_signum: int, _frame: object) -> None:
        took_s = time.monotonic() - began
        error = _TimeIsUp() if took_s >= limit_s else GaveWay() if gives_way(took_s) else None
        if is_running and error is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)  # so that it is raised once
            raise error

    previous = signal.signal(signal.SIGALRM, look)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
            return work()
        finally:
            is_running = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    except _TimeIsUp:
        raise TemplateFailed(f"the chat template ran longer than {limit_s:g} s") from None
