"""Decides where a prompt begins: in which slot, and which of its tokens need not be computed again. Pure.

The first rule that applies is followed. Where computing was measured to be faster than copying, nothing is copied.

1. Every slot is taken: the prompt has to wait for a slot.
2. A live sequence is computing a longer common prefix than any slot has: the prompt waits for it.
3. A prompt in host memory has a longer common prefix than any slot: it is fetched into an idle slot.
4. The slot with the longest common prefix is idle, and the prefix is at least half of it: it is taken over.
5. There is another idle slot: it is taken, and the prefix is copied into it.
6. The idle slot with the prefix is the only idle one: it is taken over.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from neuron_lib.engine.host_store import Saved
from neuron_lib.engine.remembered import Checkpoint, Remembered, common_prefix
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.slots import Slot, Slots
from neuron_lib.engine.step_costs import StepCosts

__all__ = ("Awaited", "Beginning", "Placement", "Reuse")

_SMALLEST_MOVE: Final = 4
"""Common prefixes shorter than this many tokens are computed again and never copied. Longer ones are copied if copying
was measured to be faster.
"""
_SMALLEST_WAIT: Final = 16
"""A sequence does not wait for another one to compute a common prefix shorter than this many tokens."""


@dataclass(slots=True, frozen=True)
class Beginning:
    """The first `length` tokens of a prompt can be reused, by way of `checkpoint` if that is not None."""

    length: int = 0
    checkpoint: Checkpoint | None = None

    def copied_from(self, slot: Slot) -> int:
        """The number of tokens that must be copied from the slot to reuse the beginning. A checkpoint can only be
        applied to a whole copy.
        """
        return self.length if self.checkpoint is None else slot.length


@dataclass(slots=True, frozen=True)
class Placement:
    """A slot for a sequence, and the source of its first tokens.

    The source is another slot, a prompt in host memory, or None for the slot itself. Until the known tokens of the
    sequence are computed, at most `cells` more cells are taken than now.
    """

    slot: Slot
    beginning: Beginning
    source: Slot | Saved | None
    cells: int


@dataclass(slots=True, frozen=True)
class Awaited:
    """`sequence` is computing a common prefix now. It is worth waiting until it has computed `length` tokens."""

    sequence: Sequence
    length: int

    @property
    def is_coming(self) -> bool:
        """Whether waiting still makes sense: the sequence has its slot and has not computed the prefix yet."""
        return self.sequence.seq_id is not None and self.sequence.computed < self.length


@dataclass(slots=True, frozen=True, kw_only=True)
class Reuse:
    """The rules for one context. Nothing here changes, but `costs` learns from each step.

    `can_truncate` says whether the memory can be cut anywhere. If not, prefixes are reused whole or from checkpoints.
    `shares_cells` says whether a copy from slot to slot costs nothing. Without `is_enabled` nothing is ever reused.
    """

    costs: StepCosts
    can_truncate: bool = True
    shares_cells: bool = False
    is_enabled: bool = True

    def find(self, sequence: Sequence, slots: Slots, saved: Iterable[Saved]) -> Placement | Awaited | None:
        """The best slot for a sequence, a prefix that is worth waiting for, or None if every slot is taken."""
        idle = slots.idle
        if not idle:
            return None
        found = {slot: self._beginning(sequence, slot) for slot in slots.all}
        best = max(slots.all, key=lambda slot: found[slot].length)
        return (
            self._wait(sequence, slots, found[best].length)
            or self._fetch(sequence, idle[0], saved, found[best].length)
            or self._take(sequence, idle, found, best)
        )

    def _wait(self, sequence: Sequence, slots: Slots, had: int) -> Awaited | None:
        """The live sequence that computes the longest common prefix, if that is worth waiting for. `had` tokens can be
        reused without waiting.
        """
        reaches = {slot: self._reach(sequence, slot) for slot in slots.all}
        best = max(slots.all, key=reaches.__getitem__)
        reach, gained = reaches[best], reaches[best] - had
        if best.sequence is None or gained < _SMALLEST_WAIT or not self._pays(gained, moved=self._moved(reach)):
            return None
        return Awaited(best.sequence, reach)

    def _fetch(self, sequence: Sequence, slot: Slot, saved: Iterable[Saved], had: int) -> Placement | None:
        """The saved prompt with the longest common prefix, if that is worth restoring the whole saved prompt. `had`
        tokens can be reused without it.
        """
        found = [(self._beginning(sequence, prompt), prompt) for prompt in saved]
        beginning, best = max(found, key=lambda pair: pair[0].length, default=(Beginning(), None))
        if best is None or not self._pays(beginning.length - had, moved=best.length):
            return None
        return Placement(slot, beginning, best, max(best.length, len(sequence.tokens)))

    def _take(self, sequence: Sequence, idle: list[Slot], found: dict[Slot, Beginning], best: Slot) -> Placement:
        """An idle slot. It keeps what it has of the prompt, or gets a copy of the prefix that the best slot has."""
        prefix, known = found[best], len(sequence.tokens)
        # Taking a slot over costs nothing but the part that is cut off.
        if best in idle and 2 * prefix.length >= best.length:
            return Placement(best, prefix, None, known - prefix.length)
        is_worth_keeping = prefix.length >= _SMALLEST_MOVE
        target = next((slot for slot in idle if slot is not best or not is_worth_keeping), best)
        gained = prefix.length - found[target].length
        if target is best or not self._pays(gained, moved=self._moved(best.length)):
            return Placement(target, found[target], None, known - found[target].length)
        taken = known - prefix.length if self.shares_cells else max(known, prefix.copied_from(best))
        return Placement(target, prefix, best, taken)

    def _beginning(self, sequence: Sequence, other: Remembered) -> Beginning:
        """How much of `other` the sequence can reuse. At least one of its tokens is left to compute."""
        if not self._may_share(sequence, other):
            return Beginning()
        common = common_prefix(other.content, sequence.tokens, min(other.length, len(sequence.tokens) - 1))
        if self.can_truncate or common == other.length:
            return Beginning(common)
        usable = [point for point in other.checkpoints if point.length <= common]
        last = max(usable, key=lambda point: point.length, default=None)
        return Beginning() if last is None else Beginning(last.length, last)

    def _reach(self, sequence: Sequence, slot: Slot) -> int:
        """The length of the common prefix that the sequence in the slot is computing now. 0 if it computes none."""
        other = slot.sequence
        if other is None or other.remaining <= 1 or not self._may_share(sequence, slot):
            return 0
        reach = common_prefix(other.tokens, sequence.tokens, len(sequence.tokens) - 1)
        if not self.can_truncate:
            reach = max((at for at in other.checkpoint_at if at <= reach), default=0)
        return reach if reach > other.computed else 0

    def _may_share(self, sequence: Sequence, other: Remembered) -> bool:
        return self.is_enabled and other.cache_key == sequence.sharing

    def _moved(self, tokens: int) -> int:
        """The number of tokens whose state must be copied to copy a slot of so many tokens."""
        return 0 if self.shares_cells else tokens

    def _pays(self, gained: int, *, moved: int) -> bool:
        """Whether copying the state of `moved` tokens is better than computing `gained` tokens."""
        return gained >= _SMALLEST_MOVE and self.costs.is_worth_moving(moved, instead_of=gained)
