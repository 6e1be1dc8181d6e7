"""Prompts and checkpoints in host memory: what is kept there, within a budget of bytes, and what has to go. Pure.

The runner holds the states themselves. This module holds their keys and sizes, and asks the runner with `Save` and
`Drop`. An entry lives in three stages:

reserved     it has a key and an estimated size, and the next plan asks the runner to keep the state
confirmed    the runner has reported the size. An entry that the runner could not keep is forgotten
discarded    it has no key any more, and the next plan asks the runner to free the state
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from neuron_lib.engine.remembered import Checkpoint, Remembered, common_prefix
from neuron_lib.engine.step import Drop, Edit, Save

__all__ = ("HostStore", "Saved")

_MOST_SAVED: Final = 128
"""The most saved prompts. Each new prompt is compared with all of them."""


@dataclass(slots=True, eq=False)
class Saved:
    """A prompt, or prompt and reply, whose whole state is kept under the number `key`. See `Remembered`.

    `nbytes` is without the checkpoints, and an estimate until the runner has reported the size.
    """

    key: int
    content: list[int]
    cache_key: object
    nbytes: int
    checkpoints: list[Checkpoint] = field(default_factory=list)

    @property
    def length(self) -> int:
        """The number of its tokens."""
        return len(self.content)


class HostStore:
    """What one engine keeps in host memory. Lives as long as the prompt cache.

    `can_truncate` says whether the memory of the model can be cut anywhere. If it cannot, a longer prompt does not
    replace a shorter one that it begins with. Changes for the runner are appended to `edits`, in order. With a budget
    of 0 bytes nothing is ever kept.
    """

    def __init__(self, *, budget_bytes: int, can_truncate: bool, edits: list[Edit]) -> None:
        self._budget_bytes: Final = budget_bytes
        self._can_truncate: Final = can_truncate
        self._edits: Final = edits
        self._saved: dict[int, Saved] = {}  # by key, the least recently used first
        self._checkpoints: dict[int, Checkpoint] = {}  # by key, those of slots and those of saved prompts
        self._keys: Final = count(1)
        self._bytes_per_token = 0.0  # of the prompt that was confirmed last
        self._checkpoint_bytes = 0  # of the checkpoint that was confirmed last

    def __repr__(self) -> str:
        return f"<HostStore {len(self._saved)} saved, {len(self._checkpoints)} checkpoints, {self.nbytes} B>"

    @property
    def nbytes(self) -> int:
        """The bytes of all entries."""
        return sum(saved.nbytes for saved in self._saved.values()) + _bytes_of(self._checkpoints.values())

    @property
    def saved(self) -> Collection[Saved]:
        """The saved prompts, the least recently used first."""
        return self._saved.values()

    # ----------------------------------------------------------------------------------------------------- reserving

    def save(
        self, seq_id: int, prompt: Remembered, *, others: Iterable[Remembered], needed: Saved | None = None
    ) -> bool:
        """Keep a copy of a prompt that is about to leave the slot `seq_id`. Returns whether a copy is kept.

        None is kept if one of `others` (what stays in other slots) or a saved prompt can replace it, or if the budget
        is too small. Saved prompts that the new one can replace are discarded. `needed` is never discarded. The
        checkpoints of the prompt then belong to the copy.
        """
        if any(self._replaces(other, prompt) for other in others):
            return False
        for saved in list(self._saved.values()):
            if self._replaces(saved, prompt):
                self._touch(saved)
                return False
            if saved is not needed and self._replaces(prompt, saved):
                self._discard(saved)
        nbytes = int(self._bytes_per_token * prompt.length)
        if not self._make_room(nbytes, needed=needed):
            return False
        key = next(self._keys)
        self._saved[key] = Saved(key, prompt.content, prompt.cache_key, nbytes, prompt.checkpoints.copy())
        self._edits.append(Save(seq_id, key))
        return True

    def reserve_checkpoint(self, length: int) -> Checkpoint | None:
        """A new checkpoint after `length` tokens, under whose key the runner is to keep the state. None if the budget
        is too small. It belongs to the caller, who gives it back with `discard`.
        """
        if not self._make_room(self._checkpoint_bytes):
            return None
        point = Checkpoint(next(self._keys), length, self._checkpoint_bytes)
        self._checkpoints[point.key] = point
        return point

    def _replaces(self, kept: Remembered, wanted: Remembered) -> bool:
        """Whether `kept` begins with all of `wanted`. If the memory cannot be cut, they must be equally long."""
        if kept.cache_key != wanted.cache_key or (kept.length != wanted.length and not self._can_truncate):
            return False
        return common_prefix(kept.content, wanted.content, kept.length) == wanted.length

    # ----------------------------------------------------------------------------------------------------- confirming

    def confirm(self, sizes: Mapping[int, int], *, expected: Collection[int]) -> None:
        """Take in what the runner has kept: bytes by key. Keys of `expected` without a size could not be kept.

        If more is kept now than the budget allows, older prompts are discarded. If that is not enough, the newest of
        the expected entries are discarded.
        """
        for key in expected:
            entry = self._entry(key)
            if entry is None:
                continue  # it was discarded meanwhile
            if key not in sizes:
                self._discard(entry)
                continue
            entry.nbytes = sizes[key]
            if isinstance(entry, Saved):
                self._bytes_per_token = entry.nbytes / entry.length
            else:
                self._checkpoint_bytes = entry.nbytes
        for key in reversed(list(expected)):
            if self._make_room(0):
                break
            entry = self._entry(key)
            if entry is not None:
                self._discard(entry)

    def holds(self, point: Checkpoint) -> bool:
        """Whether the checkpoint is still kept. `confirm` may have discarded it."""
        return point.key in self._checkpoints

    def _entry(self, key: int) -> Saved | Checkpoint | None:
        return self._saved.get(key) or self._checkpoints.get(key)

    # ------------------------------------------------------------------------------------------------ using, discarding

    def take_checkpoints(self, saved: Saved) -> list[Checkpoint]:
        """Note that a saved prompt is used again. Its copy stays; its checkpoints belong to the caller from now on."""
        self._touch(saved)
        checkpoints, saved.checkpoints = saved.checkpoints, []
        return checkpoints

    def discard(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Free checkpoints that belong to the caller."""
        for point in checkpoints:
            self._discard(point)

    def _touch(self, saved: Saved) -> None:
        self._saved[saved.key] = self._saved.pop(saved.key)

    def _discard(self, entry: Saved | Checkpoint) -> None:
        if isinstance(entry, Saved):
            self.discard(entry.checkpoints)
            del self._saved[entry.key]
        else:
            del self._checkpoints[entry.key]
        self._edits.append(Drop(entry.key))

    def _make_room(self, nbytes: int, *, needed: Saved | None = None) -> bool:
        """Discard the least recently used prompts until `nbytes` more fit the budget. `needed` stays.

        False if discarding all of them would not be enough. Then none is discarded.
        """
        others = [saved for saved in self._saved.values() if saved is not needed]
        least = self.nbytes - sum(saved.nbytes + _bytes_of(saved.checkpoints) for saved in others)
        if self._budget_bytes == 0 or least + nbytes > self._budget_bytes:
            return False
        for saved in others:
            if self.nbytes + nbytes <= self._budget_bytes and len(self._saved) < _MOST_SAVED:
                break
            self._discard(saved)
        return True


def _bytes_of(checkpoints: Iterable[Checkpoint]) -> int:
    return sum(point.nbytes for point in checkpoints)
