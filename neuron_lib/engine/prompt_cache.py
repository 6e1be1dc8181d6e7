"""Which sequence is in which slot, what slots and host memory remember, and how a new prompt can begin. Pure.

A slot is a place in the context with a `seq_id`. When its sequence ends, the tokens stay until the slot is needed. Then
they go to host memory if there is a budget for it. Prompts are compared by token ids alone. The changes of the native
memory are returned as `Edit`s, in order, with the next plan.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from neuron_lib.engine.cells import CellAccount
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import Copy, Drop, Edit, Restore, Rewind, Save, Swap, Truncate
from neuron_lib.engine.step_costs import StepCosts

__all__ = ("Awaited", "Placement", "PromptCache", "Slot", "common_prefix")

_SMALLEST_MOVE: Final = 4
"""Common prefixes shorter than this many tokens are computed again and never copied. Longer ones are copied if copying
was measured to be faster.
"""
_SMALLEST_WAIT: Final = 16
"""A sequence does not wait for another one to compute a common prefix shorter than this many tokens."""
_SMALLEST_SAVE: Final = 64
_MOST_CHECKPOINTS: Final = 4
_MOST_SAVED: Final = 128
"""The most saved sequences. Each new prompt is compared with all of them."""


@dataclass(slots=True, frozen=True)
class _Checkpoint:
    """The state after the first `length` tokens, kept in host memory under `key`."""

    length: int
    key: int


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of the context. `tokens` are the tokens of its last sequence while no sequence is in it.

    `seq_id` is the number of the slot in the native memory. It may change.
    """

    seq_id: int
    sequence: Sequence | None = None
    tokens: list[int] = field(default_factory=list)
    sharing: tuple[str, str] = ("", "")  # of the sequence that has the content, see `Sequence.sharing`
    checkpoints: list[_Checkpoint] = field(default_factory=list)
    released: int = 0  # the number of the release in which it became idle

    @property
    def content(self) -> list[int]:
        """The tokens of the slot. The first `length` of them have cells. There may be more without cells."""
        return self.tokens if self.sequence is None else self.sequence.tokens

    @property
    def length(self) -> int:
        """The number of tokens of `content` that have cells."""
        return len(self.tokens) if self.sequence is None else self.sequence.computed


@dataclass(slots=True)
class _Saved:
    """A sequence in host memory."""

    tokens: list[int]
    sharing: tuple[str, str]
    checkpoints: list[_Checkpoint]


@dataclass(slots=True, frozen=True)
class _Beginning:
    """The first `length` tokens of a prompt can be reused, by way of `checkpoint` if that is not None."""

    length: int = 0
    checkpoint: _Checkpoint | None = None


@dataclass(slots=True, frozen=True)
class Placement:
    """A slot for a sequence, and the source of its first tokens.

    The source is another slot, a key in host memory, or None for the slot itself. Until the known tokens of the
    sequence are computed, at most `cells` more cells are taken than now.
    """

    slot: Slot
    beginning: _Beginning
    source: Slot | int | None
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


class PromptCache:
    """The slots of one context and what they remember. Lives as long as the context.

    `can_truncate` says whether the memory can be cut anywhere. If not, prefixes are reused whole or from checkpoints.
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
        self.slots: Final = tuple(Slot(seq_id) for seq_id in range(seats))
        self._places: Final = list(self.slots)  # by seq_id
        self.cells: Final = cells
        self._pace: Final = costs
        self._is_enabled: Final = is_enabled
        self._can_truncate: Final = can_truncate
        self._host_budget_bytes: Final = host_budget_bytes
        self._saved: OrderedDict[int, _Saved] = OrderedDict()  # the least recently used first
        self._sizes: dict[int, int] = {}  # bytes in host memory by key; estimates for saves that are not finished
        self._bytes_per_token = 0.0  # of the last saved sequence
        self._checkpoint_bytes = 0  # of the last checkpoint
        self._edits: list[Edit] = []
        self._next_key = 1
        self._releases = 0

    def __repr__(self) -> str:
        taken = {slot.seq_id: slot.sequence.request for slot in self.slots if slot.sequence is not None}
        return f"<PromptCache {taken} of {len(self.slots)}, {len(self._saved)} saved, {self.host_bytes} B>"

    @property
    def host_bytes(self) -> int:
        """The bytes that are kept in host memory."""
        return sum(self._sizes.values())

    @property
    def idle(self) -> list[Slot]:
        """The slots without a sequence: empty ones first, then the longest unused."""
        idle = [slot for slot in self.slots if slot.sequence is None]
        return sorted(idle, key=lambda slot: (bool(slot.tokens), slot.released))

    def take_edits(self) -> tuple[Edit, ...]:
        """The changes of the native memory since the last call, in order."""
        edits, self._edits = tuple(self._edits), []
        return edits

    # ------------------------------------------------------------------------------------------------------ finding

    def find(self, sequence: Sequence) -> Placement | Awaited | None:
        """The best slot for a sequence, a prefix that is worth waiting for, or None if every slot is taken."""
        idle = self.idle
        if not idle:
            return None
        found = {slot: self._beginning(sequence, slot) for slot in self.slots}
        best = max(self.slots, key=lambda slot: found[slot].length)
        coming = self._coming(sequence)
        gained = 0 if coming is None else coming.length - found[best].length
        if coming is not None and gained >= _SMALLEST_WAIT and self._pays(gained, moved=self._moved(coming.length)):
            return coming
        key, saved = self._find_saved(sequence)
        if key and self._pays(saved.length - found[best].length, moved=len(self._saved[key].tokens)):
            return Placement(idle[0], saved, key, max(len(self._saved[key].tokens), len(sequence.tokens)))
        # Taking a slot over costs nothing but the part that is cut off.
        if best in idle and 2 * found[best].length >= best.length:
            return self._placement(sequence, best, found[best], None)
        is_worth_keeping = found[best].length >= _SMALLEST_MOVE
        target = next((slot for slot in idle if slot is not best or not is_worth_keeping), best)
        gained = found[best].length - found[target].length
        if target is best or not self._pays(gained, moved=self._moved(best.length)):
            return self._placement(sequence, target, found[target], None)
        return self._placement(sequence, target, found[best], best)

    def _placement(self, sequence: Sequence, slot: Slot, beginning: _Beginning, source: Slot | None) -> Placement:
        known = len(sequence.tokens)
        if source is None or self.cells.shares:
            return Placement(slot, beginning, source, known - beginning.length)
        return Placement(slot, beginning, source, max(known, _copied(source, beginning)))

    def _beginning(self, sequence: Sequence, slot: Slot) -> _Beginning:
        if not self._is_enabled or slot.sharing != sequence.sharing:
            return _Beginning()
        return self._reusable(slot.content, slot.length, slot.checkpoints, sequence)

    def _reusable(
        self, tokens: list[int], length: int, checkpoints: list[_Checkpoint], sequence: Sequence
    ) -> _Beginning:
        """How much of the first `length` of `tokens` the sequence can reuse. At least one of its tokens is left to
        compute.
        """
        common = common_prefix(tokens, sequence.tokens, min(length, len(sequence.tokens) - 1))
        if self._can_truncate or common == length:
            return _Beginning(common)
        usable = [point for point in checkpoints if point.length <= common]
        if not usable:
            return _Beginning()
        last = max(usable, key=lambda point: point.length)
        return _Beginning(last.length, last)

    def _coming(self, sequence: Sequence) -> Awaited | None:
        """The longest common prefix that a live sequence is computing now."""
        best: Awaited | None = None
        for slot in self.slots:
            other = slot.sequence
            if other is None or other.remaining <= 1 or not self._is_enabled or slot.sharing != sequence.sharing:
                continue
            reach = common_prefix(other.tokens, sequence.tokens, len(sequence.tokens) - 1)
            if not self._can_truncate:
                reach = max((at for at in other.checkpoint_at if other.computed < at <= reach), default=0)
            if reach > other.computed and (best is None or reach > best.length):
                best = Awaited(other, reach)
        return best

    def _find_saved(self, sequence: Sequence) -> tuple[int, _Beginning]:
        """The key of the saved sequence with the longest common prefix, and that prefix. Key 0 if there is none."""
        best, beginning = 0, _Beginning()
        for key, saved in self._saved.items():
            if saved.sharing == sequence.sharing:
                found = self._reusable(saved.tokens, len(saved.tokens), saved.checkpoints, sequence)
                if found.length > beginning.length:
                    best, beginning = key, found
        return best, beginning

    def _moved(self, tokens: int) -> int:
        """The number of tokens whose state must be copied to copy a sequence of so many tokens."""
        return 0 if self.cells.shares else tokens

    def _pays(self, gained: int, *, moved: int) -> bool:
        """Whether copying the state of `moved` tokens is better than computing `gained` tokens."""
        return gained >= _SMALLEST_MOVE and self._pace.is_worth_moving(moved, instead_of=gained)

    # ------------------------------------------------------------------------------------------------------- seating

    def seat(self, sequence: Sequence, placement: Placement) -> None:
        """Give the sequence its slot, with the content that can be reused."""
        slot, source, beginning = placement.slot, placement.source, placement.beginning
        if source is None:
            self._cut(slot, beginning)
        else:
            checkpoints = []
            self._empty(slot, needed=source if isinstance(source, int) else None)
            if isinstance(source, Slot):
                copied = _copied(source, beginning)
                self._edits.append(Copy(source.seq_id, slot.seq_id, copied))
                self.cells.copy(source.seq_id, slot.seq_id, copied)
            else:
                saved = self._saved[source]
                self._saved.move_to_end(source)
                checkpoints, saved.checkpoints = saved.checkpoints, []
                self._edits.append(Restore(source, slot.seq_id, len(saved.tokens)))
                self.cells.extend(slot.seq_id, len(saved.tokens))
            self._shorten(slot.seq_id, beginning)
            slot.checkpoints = self._up_to(beginning.length, checkpoints)
        slot.sequence, slot.sharing, slot.tokens = sequence, sequence.sharing, []
        sequence.seq_id = slot.seq_id
        sequence.begin(reused=beginning.length)

    @property
    def is_gathered(self) -> bool:
        """Whether the seated sequences are computed in one piece."""
        seated = self._seated()
        return not self.cells.has_neighbours or not seated or seated[-1] - seated[0] < len(seated)

    def _seated(self) -> list[int]:
        return [seq_id for seq_id, slot in enumerate(self._places) if slot.sequence is not None]

    def gather(self) -> None:
        """Make the seated sequences neighbours, if the gain is worth the copies.

        A batch is computed in one piece more for each gap between them, and every piece reads all the weights.
        """
        seated = self._seated()
        count, length = len(seated), self.cells.length
        best: tuple[int, list[tuple[int, int]]] | None = None
        for first in range(len(self.slots) - count + 1):
            window = range(first, first + count)
            strays = [seq_id for seq_id in seated if seq_id not in window]
            holes = [seq_id for seq_id in window if self._places[seq_id].sequence is None]
            moved = sum(map(length, strays)) + sum(map(length, holes))
            if best is None or moved < best[0]:
                best = moved, list(zip(strays, holes, strict=True))
        assert best is not None  # there is at least one window
        moved, pairs = best
        if self._pace.is_worth_gathering(moved, sequences=count):
            for stray, hole in pairs:
                self._swap(stray, hole)

    def _swap(self, first: int, second: int) -> None:
        places = self._places
        places[first], places[second] = places[second], places[first]
        for seq_id in (first, second):
            slot = places[seq_id]
            slot.seq_id = seq_id
            if slot.sequence is not None:
                slot.sequence.seq_id = seq_id
        self.cells.swap(first, second)
        self._edits.append(Swap(first, second))

    def release(self, sequence: Sequence) -> None:
        """The sequence leaves its slot. Its computed tokens stay there."""
        assert sequence.seq_id is not None  # it has a slot
        slot = self._places[sequence.seq_id]
        slot.tokens = sequence.tokens[: sequence.computed]
        slot.sequence = sequence.seq_id = None
        self._releases += 1
        slot.released = self._releases
        self.trim(slot.seq_id, len(slot.tokens))
        if not self._is_enabled:
            self.forget(slot.seq_id)

    def trim(self, seq_id: int, length: int) -> None:
        """Forget the cells of guesses that were wrong."""
        if self.cells.length(seq_id) > length:
            self.cells.truncate(seq_id, length)
            self._edits.append(Truncate(seq_id, length))

    def evict(self, slot: Slot, *, needed: int | None = None) -> None:
        """Empty an idle slot, into host memory if there is a budget for it. The entry under key `needed` is kept."""
        self._empty(slot, needed=needed)

    def forget(self, seq_id: int) -> None:
        """Remove everything from a slot."""
        slot = self._places[seq_id]
        self._drop_checkpoints(slot.checkpoints)
        slot.checkpoints, slot.tokens = [], []
        if self.cells.length(seq_id):
            self.cells.truncate(seq_id, 0)
            self._edits.append(Truncate(seq_id, 0))

    def _cut(self, slot: Slot, beginning: _Beginning) -> None:
        """Keep only the common beginning in an idle slot."""
        if beginning.length < len(slot.tokens):
            if len(slot.tokens) - beginning.length >= _SMALLEST_SAVE:
                self._save(slot)
            self._shorten(slot.seq_id, beginning)
            slot.checkpoints = self._up_to(beginning.length, slot.checkpoints)

    def _empty(self, slot: Slot, *, needed: int | None = None) -> None:
        if len(slot.tokens) >= _SMALLEST_SAVE:
            self._save(slot, needed=needed)
        self.forget(slot.seq_id)

    def _shorten(self, seq_id: int, beginning: _Beginning) -> None:
        if self.cells.length(seq_id) == beginning.length:
            return
        self.cells.truncate(seq_id, beginning.length)
        if beginning.checkpoint is not None:
            self._edits.append(Rewind(seq_id, beginning.checkpoint.key, beginning.length))
        else:
            self._edits.append(Truncate(seq_id, beginning.length))

    # --------------------------------------------------------------------------------------------------- host memory

    def checkpoint(self, sequence: Sequence, length: int) -> int | None:
        """The key under which the state at `length` is to be kept. None if there is no budget for it."""
        assert sequence.seq_id is not None  # it has a slot
        slot = self._places[sequence.seq_id]
        if not self._is_enabled or self._host_budget_bytes == 0 or not self._make_room(self._checkpoint_bytes):
            return None
        key = self._new_key(self._checkpoint_bytes)
        slot.checkpoints.append(_Checkpoint(length, key))
        if len(slot.checkpoints) > _MOST_CHECKPOINTS:
            # The first one is probably the end of a system prompt that other prompts share.
            self._drop_checkpoints([slot.checkpoints.pop(1)])
        return key

    def note_kept(self, kept: Iterable[tuple[int, int]], expected: list[int]) -> None:
        """Note the bytes of saved sequences and checkpoints. Keys of `expected` that are missing have failed."""
        sizes = dict(kept)
        for key in expected:
            if key not in self._sizes:
                continue  # it was dropped meanwhile
            if key not in sizes:
                self._discard(key)
                continue
            self._sizes[key] = sizes[key]
            if key in self._saved:
                self._bytes_per_token = sizes[key] / len(self._saved[key].tokens)
            else:
                self._checkpoint_bytes = sizes[key]
        # The newest entry is dropped first if it is too large and dropping older ones does not make enough room for it.
        for key in reversed(expected):
            if self._make_room(0):
                break
            if key in self._sizes:
                self._discard(key)

    def _save(self, slot: Slot, *, needed: int | None = None) -> None:
        """Keep an idle slot's content in host memory, unless an entry there or another slot can replace it.

        An entry can replace it if it begins with the content, or is equal to it if the memory cannot be cut. The entry
        under the key `needed` is kept, whatever the budget is.
        """
        tokens = slot.tokens
        others = [other for other in self.slots if other is not slot and other.sharing == slot.sharing]
        if any(self._stands_for(other.content, other.length, tokens) for other in others):
            return
        for key, saved in list(self._saved.items()):
            if saved.sharing != slot.sharing:
                continue
            if self._stands_for(saved.tokens, len(saved.tokens), tokens):
                self._saved.move_to_end(key)
                return
            if key != needed and self._stands_for(tokens, len(tokens), saved.tokens):
                self._discard(key)
        size = int(self._bytes_per_token * len(slot.tokens))
        if self._host_budget_bytes == 0 or not self._make_room(size, needed=needed):
            return
        key = self._new_key(size)
        self._saved[key] = _Saved(slot.tokens, slot.sharing, [])
        if not self._can_truncate:
            self._saved[key].checkpoints, slot.checkpoints = slot.checkpoints, []
        self._edits.append(Save(slot.seq_id, key))

    def _stands_for(self, tokens: list[int], length: int, wanted: list[int]) -> bool:
        """Whether the first `length` of `tokens` can replace `wanted`."""
        if length != len(wanted) and not self._can_truncate:
            return False
        return common_prefix(tokens, wanted, length) == len(wanted)

    def _make_room(self, size: int, *, needed: int | None = None) -> bool:
        """Drop the least recently used saved sequences until `size` more bytes fit the budget. The key `needed` is
        kept.

        False if dropping all of them would not be enough. Then none is dropped.
        """
        others = [key for key in self._saved if key != needed]
        if self.host_bytes - sum(map(self._size_of_saved, others)) + size > self._host_budget_bytes:
            return False
        for key in others:
            if self.host_bytes + size <= self._host_budget_bytes and len(self._saved) < _MOST_SAVED:
                break
            self._discard(key)
        return True

    def _size_of_saved(self, key: int) -> int:
        return self._sizes[key] + sum(self._sizes[point.key] for point in self._saved[key].checkpoints)

    def _discard(self, key: int) -> None:
        saved = self._saved.pop(key, None)
        if saved is not None:
            self._drop_checkpoints(saved.checkpoints)
        else:
            for slot in self.slots:
                slot.checkpoints = [point for point in slot.checkpoints if point.key != key]
        del self._sizes[key]
        self._edits.append(Drop(key))

    def _up_to(self, length: int, checkpoints: list[_Checkpoint]) -> list[_Checkpoint]:
        """The checkpoints within the first `length` tokens. The others are dropped."""
        self._drop_checkpoints([point for point in checkpoints if point.length > length])
        return [point for point in checkpoints if point.length <= length]

    def _drop_checkpoints(self, checkpoints: list[_Checkpoint]) -> None:
        for point in checkpoints:
            del self._sizes[point.key]
            self._edits.append(Drop(point.key))

    def _new_key(self, size: int) -> int:
        key, self._next_key = self._next_key, self._next_key + 1
        self._sizes[key] = size
        return key


def _copied(source: Slot, beginning: _Beginning) -> int:
    """The number of tokens that must be copied to reuse the beginning. A checkpoint can only be applied to a whole
    copy.
    """
    return beginning.length if beginning.checkpoint is None else source.length


def common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """The number of tokens, at most `limit`, that both begin with."""
    low, high = 0, min(len(left), len(right), limit)
    # Slices are compared at the speed of memory. Halving finds the position without a loop over tokens.
    if left[:high] == right[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
