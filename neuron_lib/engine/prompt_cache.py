"""Gives sequences their slots and keeps what they have computed, for prompts that begin alike. Pure.

Three modules do the work: `slots` knows what is in which slot, `host_store` knows what is kept in host memory, and
`reuse` decides where a prompt begins. The changes of the native memory are collected as `Edit`s, in order, for the next
plan.
"""

from collections.abc import Iterable
from typing import Final

from neuron_lib.engine.cells import CellAccount
from neuron_lib.engine.host_store import HostStore, Saved
from neuron_lib.engine.reuse import Awaited, Placement, Reuse
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.slots import Slot, Slots
from neuron_lib.engine.step import Edit
from neuron_lib.engine.step_costs import StepCosts

__all__ = ("PromptCache",)

_SMALLEST_SAVE: Final = 64
"""Fewer tokens than this are computed again. They are not worth a copy in host memory."""
_MOST_CHECKPOINTS: Final = 4
"""The most checkpoints of one slot."""


class PromptCache:
    """The slots of one context and what is remembered of earlier prompts. Lives as long as the context.

    `can_truncate` says whether the memory can be cut anywhere. If not, prefixes are reused whole or from checkpoints.
    Without `is_enabled` a slot is emptied when its sequence leaves. With a host budget of 0 nothing is kept in host
    memory. `store` is what is kept there, to look at.
    """

    def __init__(
        self,
        *,
        seats: int,
        cells: CellAccount,
        costs: StepCosts,
        is_enabled: bool = True,
        can_truncate: bool = True,
        host_budget_bytes: int = 0,
    ) -> None:
        self._edits: Final[list[Edit]] = []
        self._costs: Final = costs
        self._is_enabled: Final = is_enabled
        self._slots: Final = Slots(seats, cells=cells, edits=self._edits)
        self.store: Final = HostStore(budget_bytes=host_budget_bytes, can_truncate=can_truncate, edits=self._edits)
        self._reuse: Final = Reuse(
            costs=costs, can_truncate=can_truncate, shares_cells=cells.shares, is_enabled=is_enabled
        )

    def __repr__(self) -> str:
        return f"<PromptCache {self._slots!r}, {self.store!r}>"

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, always in the same order, which is that of their first `seq_id`s."""
        return self._slots.all

    @property
    def idle(self) -> list[Slot]:
        """The slots without a sequence: empty ones first, then the longest unused."""
        return self._slots.idle

    def take_edits(self) -> tuple[Edit, ...]:
        """The changes of the native memory since the last call, in order."""
        edits = tuple(self._edits)
        self._edits.clear()
        return edits

    # ------------------------------------------------------------------------------------------- sequences and slots

    def find(self, sequence: Sequence) -> Placement | Awaited | None:
        """The best slot for a sequence, a prefix that is worth waiting for, or None if every slot is taken."""
        return self._reuse.find(sequence, self._slots, self.store.saved)

    def occupy(self, sequence: Sequence, placement: Placement) -> None:
        """Give the sequence its slot, with the content that can be reused."""
        slot, source, beginning = placement.slot, placement.source, placement.beginning
        match source:
            case None:
                self._save(slot, kept=beginning.length)
            case Slot():
                self.evict(slot)
                self._slots.copy(source, slot, beginning.copied_from(source))
            case Saved():
                self.evict(slot, needed=source)
                self._slots.restore(source.key, slot, source.length)
                slot.checkpoints = self.store.take_checkpoints(source)
        self._slots.shorten(slot.seq_id, beginning.length, checkpoint=beginning.checkpoint)
        self.store.discard(point for point in slot.checkpoints if point.length > beginning.length)
        slot.checkpoints = [point for point in slot.checkpoints if point.length <= beginning.length]
        self._slots.occupy(sequence, slot, reused=beginning.length)

    def release(self, sequence: Sequence) -> None:
        """The sequence leaves its slot. Its computed tokens stay there."""
        slot = self._slots.release(sequence)
        if not self._is_enabled:
            self.forget(slot.seq_id)

    def trim(self, seq_id: int, length: int) -> None:
        """Forget the cells of guesses that were wrong."""
        self._slots.shorten(seq_id, length)

    def evict(self, slot: Slot, *, needed: Saved | None = None) -> None:
        """Empty an idle slot, into host memory if there is a budget for it. `needed` stays in host memory."""
        self._save(slot, needed=needed)
        self.forget(slot.seq_id)

    def forget(self, seq_id: int) -> None:
        """Remove everything from a slot."""
        slot = self._slots.at(seq_id)
        self.store.discard(slot.checkpoints)
        slot.checkpoints, slot.tokens = [], []
        self._slots.shorten(seq_id, 0)

    @property
    def is_gathered(self) -> bool:
        """Whether the seated sequences are computed in one piece."""
        return self._slots.are_gathered

    def gather(self) -> None:
        """Make the seated sequences neighbours, if the gain is worth the copies."""
        self._slots.gather(self._costs)

    # --------------------------------------------------------------------------------------------------- host memory

    def checkpoint(self, sequence: Sequence, length: int) -> int | None:
        """The key under which the state at `length` is to be kept. None if there is no budget for it."""
        point = self.store.reserve_checkpoint(length) if self._is_enabled else None
        if point is None:
            return None
        checkpoints = self._slots.of(sequence).checkpoints
        checkpoints.append(point)
        if len(checkpoints) > _MOST_CHECKPOINTS:
            # The first one is probably the end of a system prompt that other prompts share.
            self.store.discard([checkpoints.pop(1)])
        return point.key

    def note_kept(self, kept: Iterable[tuple[int, int]], expected: list[int]) -> None:
        """Note the bytes of saved sequences and checkpoints. Keys of `expected` that are missing have failed."""
        self.store.confirm(dict(kept), expected=expected)
        for slot in self._slots.all:
            slot.checkpoints = [point for point in slot.checkpoints if self.store.holds(point)]

    def _save(self, slot: Slot, *, kept: int = 0, needed: Saved | None = None) -> None:
        """Keep a copy of an idle slot in host memory, if many tokens are lost behind the first `kept`."""
        if len(slot.tokens) - kept >= _SMALLEST_SAVE:
            others = [other for other in self._slots.all if other is not slot]
            if self.store.save(slot.seq_id, slot, others=others, needed=needed):
                slot.checkpoints = []  # they belong to the copy now
