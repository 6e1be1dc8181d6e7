"""How much memory the bodies of all requests take together. Pure: counts bytes, and holds none."""

from typing import Final

from neuron_lib.errors import Overloaded, OverloadReason

__all__ = ("FREE_BYTES", "BodyBudget", "BodyCount")

FREE_BYTES: Final = 16 << 10
"""The first bytes of each body are not counted, so that small requests are read while large ones take the budget. The
number of connections bounds them.
"""
_RETRY_AFTER_S: Final = 5


class BodyBudget:
    """What all connections of a server share. `limit_bytes` may be changed at any time."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0

    def refusal(self) -> Overloaded:
        """The error for a request whose body does not fit."""
        text = f"the bodies of all requests take {self.limit_bytes >> 20} MiB at most on this host, and that is taken"
        return Overloaded(text, reason=OverloadReason.QUEUE_FULL, retry_after_s=_RETRY_AFTER_S)


class BodyCount:
    """The body of the request that one connection reads or answers."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def add(self, size: int) -> bool:
        """Count a piece that has arrived. False if the budget has no room for it; the piece is then not counted."""
        before = max(0, self._bytes - FREE_BYTES)
        more = max(0, self._bytes + size - FREE_BYTES) - before
        if self._budget.taken_bytes + more > self._budget.limit_bytes and more:
            return False
        self._budget.taken_bytes += more
        self._bytes += size
        return True

    def release(self) -> None:
        """The request is answered, or its connection has ended: nothing of its body is needed any more."""
        self._budget.taken_bytes -= max(0, self._bytes - FREE_BYTES)
        self._bytes = 0
