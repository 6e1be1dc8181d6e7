"""Running averages that health reports show. Numbers only; nothing is exported from here."""

from typing import Final

__all__ = ("Rate", "smooth")

_SMOOTHING: Final = 0.3
"""Weight of the newest sample (wire contract §4)."""


def smooth(average: float | None, sample: float) -> float:
    """The moving average after one more sample; None is an average of nothing."""
    return sample if average is None else average + _SMOOTHING * (sample - average)


class Rate:
    """Items per second, averaged over finished requests; 0.0 until there was one worth measuring."""

    def __init__(self) -> None:
        self.per_s = 0.0

    def __repr__(self) -> str:
        return f"<Rate {self.per_s:.1f}/s>"

    def add(self, count: int, seconds: float) -> None:
        """Take in a sample; one without items or without time says nothing and is ignored."""
        if count <= 0 or seconds <= 0:
            return
        self.per_s = smooth(self.per_s or None, count / seconds)
