"""What a program writes, as records of the log: cut, and no more of them than a log can bear."""

import logging
from collections.abc import Callable
from typing import Final

from neuron_lib.child.log import ChildLog
from neuron_lib.logs import FieldLogger, get_logger

__all__ = ("LineBudget", "output_log")

program_logger: FieldLogger = get_logger("neuron_lib.process.output")

_LONGEST_LINE: Final = 2000
_MOST_LINES: Final = 200
_LINES_PER_S: Final = 20.0


class LineBudget:
    """How many lines may be logged: `most` at once, and `per_s` more each second. Pure: `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], *, most: int = _MOST_LINES, per_s: float = _LINES_PER_S) -> None:
        self.dropped: int = 0
        """Lines that were refused so far."""
        self._clock = clock
        self._most = most
        self._per_s = per_s
        self._left = float(most)
        self._then_s = clock()

    def admits(self) -> bool:
        """Whether one more line may be logged now."""
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._then_s) * self._per_s)
        self._then_s = now_s
        if self._left < 1.0:
            self.dropped += 1
            return False
        self._left -= 1.0
        return True


def output_log(*, harness: str, model_id: str, pid: int, secret: str, admits: Callable[[], bool]) -> ChildLog:
    """Logs what a program writes, where `admits` lets a line. The `secret` is left out of the lines."""
    return ChildLog(
        program_logger,
        fields={"model_id": model_id, "harness": harness, "pid": pid},
        clean=lambda line: line.replace(secret, "***"),
        longest_line=_LONGEST_LINE,
        loose_level=logging.INFO,
        admits=admits,
    )
