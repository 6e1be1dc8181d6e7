"""Counts values by their size, for a histogram. Pure numbers: no clock, no export."""

from bisect import bisect_left
from collections.abc import Sequence

from neuron_lib.types.measures import Distribution

__all__ = ("Tally",)


class Tally:
    """How many values were at most as large as each of `bounds`, and the sum of all. Counts never fall.

    `bounds` ascend. A value greater than the last bound counts as well. Adding a value takes less than a microsecond.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def __repr__(self) -> str:
        return f"<Tally {sum(self._counts)} values, sum {self._sum:g}>"

    def add(self, value: float, *, times: int = 1) -> None:
        """Count a value, which is 0 or more, so many times."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def show(self) -> Distribution:
        """The counts now."""
        return Distribution(bounds=self._bounds, counts=tuple(self._counts), sum=self._sum)
