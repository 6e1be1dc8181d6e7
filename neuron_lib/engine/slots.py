"""The slots of one context: which sequence is in which, what is in them, and how they are brought together. Pure.

A slot is a place in the context with a `seq_id`. When its sequence ends, the tokens and their cells stay until the slot
is needed. Each change is made in two places at once: in the cell account, and in the native memory by an `Edit`.
"""

from dataclasses import dataclass, field
from typing import Final

from neuron_lib.engine.cells import CellAccount
from neuron_lib.engine.remembered import Checkpoint
from neuron_lib.engine.sequence import Sequence
from neuron_lib.engine.step import Copy, Edit, Restore, Rewind, Swap, Truncate
from neuron_lib.engine.step_costs import StepCosts

__all__ = ("Slot", "Slots")


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of the context, see `Remembered`. `tokens` are those of its last sequence while no sequence is in it.

    `seq_id` is the number of the slot in the native memory. It may change.
    """

    seq_id: int
    sequence: Sequence | None = None
    tokens: list[int] = field(default_factory=list)
    cache_key: object = ""
    checkpoints: list[Checkpoint] = field(default_factory=list)
    released: int = 0  # the number of the release in which it became idle

    @property
    def content(self) -> list[int]:
        """The tokens of the slot. The first `length` of them have cells. There may be more without cells."""
        return self.tokens if self.sequence is None else self.sequence.tokens

    @property
    def length(self) -> int:
        """The number of tokens of `content` that have cells."""
        return len(self.tokens) if self.sequence is None else self.sequence.computed


class Slots:
    """All slots of one context. Lives as long as the prompt cache. Edits are appended to `edits`, in order."""

    def __init__(self, count: int, *, cells: CellAccount, edits: list[Edit]) -> None:
        self.all: Final = tuple(map(Slot, range(count)))
        self._by_seq_id: Final = list(self.all)
        self._cells: Final = cells
        self._edits: Final = edits
        self._releases = 0

    def __repr__(self) -> str:
        taken = {slot.seq_id: slot.sequence.request for slot in self.all if slot.sequence is not None}
        return f"<Slots {taken} of {len(self.all)}>"

    def at(self, seq_id: int) -> Slot:
        """The slot that has this number now."""
        return self._by_seq_id[seq_id]

    def of(self, sequence: Sequence) -> Slot:
        """The slot of a sequence, which must have one."""
        assert sequence.seq_id is not None  # it has a slot
        return self._by_seq_id[sequence.seq_id]

    @property
    def idle(self) -> list[Slot]:
        """The slots without a sequence: empty ones first, then the longest unused."""
        idle = [slot for slot in self.all if slot.sequence is None]
        return sorted(idle, key=lambda slot: (bool(slot.tokens), slot.released))

    # ------------------------------------------------------------------------------------------ sequences and content

    def occupy(self, sequence: Sequence, slot: Slot, *, reused: int) -> None:
        """Put a sequence into an idle slot that holds the first `reused` of its tokens and nothing else."""
        slot.sequence, slot.cache_key, slot.tokens = sequence, sequence.sharing, []
        sequence.seq_id = slot.seq_id
        sequence.begin(reused=reused)

    def release(self, sequence: Sequence) -> Slot:
        """Take a sequence out of its slot. The tokens that it has computed stay there."""
        slot = self.of(sequence)
        slot.tokens = sequence.tokens[: sequence.computed]
        slot.sequence = sequence.seq_id = None
        self._releases += 1
        slot.released = self._releases
        self.shorten(slot.seq_id, len(slot.tokens))
        return slot

    def shorten(self, seq_id: int, length: int, *, checkpoint: Checkpoint | None = None) -> None:
        """Give up the cells behind the first `length` tokens. A memory that cannot be cut is turned back to
        `checkpoint`.
        """
        if self._cells.length(seq_id) <= length:
            return
        self._cells.truncate(seq_id, length)
        if checkpoint is None:
            self._edits.append(Truncate(seq_id, length))
        else:
            self._edits.append(Rewind(seq_id, checkpoint.key, length))

    def copy(self, source: Slot, target: Slot, length: int) -> None:
        """Give the state of the first `length` tokens of one slot to another one, which must be empty."""
        self._cells.copy(source.seq_id, target.seq_id, length)
        self._edits.append(Copy(source.seq_id, target.seq_id, length))

    def restore(self, key: int, target: Slot, length: int) -> None:
        """Bring the state of `length` tokens, kept in host memory under `key`, into a slot, which must be empty."""
        self._cells.extend(target.seq_id, length)
        self._edits.append(Restore(key, target.seq_id, length))

    # ---------------------------------------------------------------------------------------------------- neighbours

    @property
    def are_gathered(self) -> bool:
        """Whether the sequences in slots are computed in one piece."""
        taken = self._taken()
        return not self._cells.has_neighbours or not taken or taken[-1] - taken[0] < len(taken)

    def gather(self, costs: StepCosts) -> None:
        """Make the sequences in slots neighbours, if the gain is worth the copies.

        A batch is computed in one piece more for each gap between them, and every piece reads all the weights.
        """
        taken = self._taken()
        windows = (range(first, first + len(taken)) for first in range(len(self.all) - len(taken) + 1))
        swaps = min((self._swaps_into(window, taken) for window in windows), key=self._moved)
        if costs.is_worth_gathering(self._moved(swaps), sequences=len(taken)):
            for stray, hole in swaps:
                self._swap(stray, hole)

    def _taken(self) -> list[int]:
        """The `seq_id`s of the slots with a sequence, in order."""
        return [seq_id for seq_id, slot in enumerate(self._by_seq_id) if slot.sequence is not None]

    def _swaps_into(self, window: range, taken: list[int]) -> list[tuple[int, int]]:
        """The swaps after which the taken slots are those of `window`, which has as many."""
        strays = [seq_id for seq_id in taken if seq_id not in window]
        holes = [seq_id for seq_id in window if self._by_seq_id[seq_id].sequence is None]
        return list(zip(strays, holes, strict=True))

    def _moved(self, swaps: list[tuple[int, int]]) -> int:
        """The number of tokens whose state must be copied for the swaps."""
        return sum(self._cells.length(stray) + self._cells.length(hole) for stray, hole in swaps)

    def _swap(self, first: int, second: int) -> None:
        slots = self._by_seq_id
        slots[first], slots[second] = slots[second], slots[first]
        for seq_id in (first, second):
            slot = slots[seq_id]
            slot.seq_id = seq_id
            if slot.sequence is not None:
                slot.sequence.seq_id = seq_id
        self._cells.swap(first, second)
        self._edits.append(Swap(first, second))
