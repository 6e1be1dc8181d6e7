"""Ends work of the main thread that takes too long. Python code can be interrupted in the main thread alone, because
only there a signal's handler may raise.
"""

import signal
import time
from collections.abc import Callable
from typing import Final, TypeAlias, TypeVar

from neuron_lib.errors import TemplateFailed

__all__ = ("GaveWay", "GivesWay", "never_gives_way", "within")

_LOOK_S: Final = 0.05

Result = TypeVar("Result")

GivesWay: TypeAlias = Callable[[float], bool]
"""Whether work that has taken so many seconds is to be stopped for other work. Called from a signal's handler."""


class GaveWay(BaseException):
    """The work was stopped for other work, and may be begun again. No template can catch a `BaseException`."""


class _TimeIsUp(BaseException):
    """The work has used up its time."""


def never_gives_way(_took_s: float) -> bool:
    """The `GivesWay` of work that is never stopped for other work."""
    return False


def within(limit_s: float, work: Callable[[], Result], *, gives_way: GivesWay = never_gives_way) -> Result:
    """Run `work` and return its result.

    Raises `TemplateFailed` when `work` has run for `limit_s`, and `GaveWay` when `gives_way` says so. Both are looked
    at 20 times a second, with a timer and SIGALRM. May only be called in the main thread, and not by `work` itself.
    """
    began = time.monotonic()
    is_running = True

    def look(_signum: int, _frame: object) -> None:
        took_s = time.monotonic() - began
        error = _TimeIsUp() if took_s >= limit_s else GaveWay() if gives_way(took_s) else None
        if is_running and error is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)  # no second error is raised while the first one is handled
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
