"""Moving averages that `/health` shows. Pure numbers: no clock, no export."""

from typing import Final

__all__ = ("Rate", "smooth")

_SMOOTHING: Final = 0.3
"""The weight of the newest sample (`docs/reference/wire-contract.md#health`)."""


def smooth(average: float | None, sample: float) -> float:
    """The moving average after one more sample. `average` is None before the first sample."""
    return sample if average is None else average + _SMOOTHING * (sample - average)


class Rate:
    """Items per second, as a moving average over finished requests. `per_s` is 0.0 before the first usable sample."""

    def __init__(self) -> None:
        self.per_s: float = 0.0

    def __repr__(self) -> str:
        return f"<Rate {self.per_s:.1f}/s>"

    def add(self, count: int, seconds: float) -> None:
        """Add a sample: `count` items in `seconds`. A sample without items or without time is ignored."""
        if count <= 0 or seconds <= 0:
            return
        self.per_s = smooth(self.per_s or None, count / seconds)
