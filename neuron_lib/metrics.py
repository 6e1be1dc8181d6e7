"""Running averages that health reports show. Numbers only; nothing is exported from here."""

from typing import Final

__all__ = ("Rate",)

_SMOOTHING: Final = 0.3
"""Weight of the newest sample (wire contract §4)."""


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
        sample = count / seconds
        self.per_s = sample if self.per_s == 0.0 else self.per_s + _SMOOTHING * (sample - self.per_s)
