"""Which sequence sits in which of the context's `seq_id`s. Pure.

A slot that is given back must be cleared in the native memory before it is used again; `take_vacated` hands those
over to the next plan.
"""

from heapq import heappop, heappush

__all__ = ("SlotPool",)


class SlotPool:
    """`size` slots; every `seq_id` is free or has exactly one owner (a request number)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = list(range(size))  # ascending, so it is a heap already
        self._owners: dict[int, int] = {}
        self._vacated: list[int] = []

    def __repr__(self) -> str:
        return f"<SlotPool {len(self._owners)}/{self.size} taken by {sorted(self._owners.values())}>"

    @property
    def has_free(self) -> bool:
        """Whether `acquire` would succeed."""
        return bool(self._free)

    @property
    def owners(self) -> dict[int, int]:
        """`seq_id` → request number, a copy."""
        return dict(self._owners)

    def acquire(self, request: int) -> int:
        """The lowest free `seq_id`, now owned by `request`. Raises IndexError when none is free."""
        seq_id = heappop(self._free)
        self._owners[seq_id] = request
        return seq_id

    def release(self, seq_id: int) -> None:
        """Give a slot back. Raises KeyError if nobody owns it."""
        del self._owners[seq_id]
        self._vacated.append(seq_id)
        heappush(self._free, seq_id)

    def take_vacated(self) -> tuple[int, ...]:
        """The slots released since the last call, whose cells the runner must free before it computes."""
        vacated, self._vacated = tuple(self._vacated), []
        return vacated
