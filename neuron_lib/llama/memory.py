"""What the sequences of one context remember: measured, cut, copied, saved and put back. Blocking.

It owns every call to libllama's memory and keeps callers away from the ones that end the process. It holds no policy:
what to share, keep or forget is the scheduler's business.
"""

import ctypes
import mmap
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from neuron_lib.llama.bindings import lib
from neuron_lib.llama.model import Model

__all__ = ("Memory", "MemoryKind", "SavedState", "memory_kind")

SavedState = npt.NDArray[np.uint8]
"""Bytes of one sequence, only good for the context they came from; `nbytes` is what they cost."""

_WHOLE: Final = 0
_PARTIAL: Final = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
"""Only what cannot be cut: the windows and the recurrent states, without the cells of full attention."""


_MAPPED_FROM: Final = 1 << 20


class MemoryKind(StrEnum):
    """How a model remembers: all of it, a window of it in some layers, a summary, or a summary beside all of it."""

    FULL = "full"
    WINDOWED = "windowed"
    RECURRENT = "recurrent"
    HYBRID = "hybrid"


def memory_kind(model: Model) -> MemoryKind:
    """The kind that libllama reports for a model."""
    if lib.llama_model_is_recurrent(model.pointer):
        return MemoryKind.RECURRENT
    if lib.llama_model_is_hybrid(model.pointer):
        return MemoryKind.HYBRID
    return MemoryKind.WINDOWED if lib.llama_model_n_swa(model.pointer) > 0 else MemoryKind.FULL


def _passing_bytes(size: int) -> SavedState:
    """For a moment; the allocator has them ready from the time before."""
    return np.empty(size, np.uint8)


def _kept_bytes(size: int) -> SavedState:
    """For long. From the kernel, all pages at once, and back to it when they are dropped: touched one by one, 15 MiB
    take 30 ms instead of 5 (measured), as long as seven replies wait for a step.
    """
    if size < _MAPPED_FROM:
        return np.empty(size, np.uint8)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint8)


class Memory:
    """The memory of `seats` sequences, numbered from 0. Lengths are in tokens, counted from a sequence's beginning.

    Every call takes effect at once and in order, whatever has been decoded or not. Methods that answer `bool` say
    whether the sequence is now as asked for. Raises ValueError for a sequence that is not there, because libllama ends
    the process for it.
    """

    def __init__(self, context: Any, model: Model, *, seats: int, unified: bool) -> None:
        """`context` is the native handle, made for `seats` sequences in one pool or in streams."""
        self._context: Final = context
        self._memory: Final[Any] = lib.llama_get_memory(context)
        self._window: Final = int(lib.llama_model_n_swa(model.pointer))
        self._seats: Final = seats
        self.kind: Final = memory_kind(model)
        self.shares_cells: Final = unified and self.kind is not MemoryKind.WINDOWED
        """Whether a copy uses the cells of the original instead of its own.

        By reference, a windowed model would run out of cells that nobody sees any more: libllama does not reuse a
        cell that has two owners, and its pool for windows is small (four forks of 200 tokens ended 14 tokens later).
        """
        self.can_truncate: Final = self.kind is MemoryKind.FULL
        """Whether any cut of a sequence or of its copy works. Other kinds may cut by luck, as `truncate` then says: a
        windowed one where the window before the cut is still there. `swa_full` makes that likely and not sure: libllama
        saves no more than the windows, and in a pool other sequences take the cells outside of them."""

    def length(self, seq_id: int) -> int:
        """Tokens the sequence remembers."""
        self._check(seq_id)
        return int(lib.llama_memory_seq_pos_max(self._memory, seq_id)) + 1

    def clear(self, seq_id: int) -> None:
        """Forget the whole sequence, which every kind of memory can."""
        self._check(seq_id)
        lib.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def truncate(self, seq_id: int, length: int) -> bool:
        """Forget what comes after the first `length` tokens; False, and nothing is forgotten, where that cannot be."""
        if not self._can_cut(seq_id, length):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, seq_id, length, -1))

    def copy(self, source: int, target: int, length: int) -> bool:
        """Make `target` the first `length` tokens of `source`; False, and it is empty, where that cannot be.

        By reference in microseconds where cells are shared, else by way of `save`.
        """
        if source == target:
            raise ValueError(f"sequence {source} cannot be copied to itself")
        self.clear(target)
        if not self._can_cut(source, length):
            return False
        if length == 0:
            return True  # libllama would copy a recurrent state all the same
        if self.shares_cells:
            lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
            return True
        # llama_memory_seq_cp across streams only puts down a wish: the next decode copies the whole stream, used or
        # not, over whatever was restored in between. Measured, 4096 cells of SmolLM2: 5.5 ms whatever the length, and
        # this way 0.3 ms for 100 tokens, 7 ms for 2000. A part of a stream it does not copy, it ends the process.
        if self.restore(self._read(source, _WHOLE), target) and self.truncate(target, length):
            return True
        self.clear(target)
        return False

    def save(self, seq_id: int) -> SavedState:
        """All that the sequence remembers, in host memory; its cells stay. Costs the used cells, not the free ones."""
        return self._read(seq_id, _WHOLE, _kept_bytes)

    def restore(self, state: SavedState, seq_id: int) -> bool:
        """Make the sequence what was saved, whoever's it was; False, and it is empty, without enough free cells."""
        self.clear(seq_id)  # an empty state would leave what is there
        return self._write(state, seq_id, _WHOLE)

    def swap(self, first: int, second: int) -> bool:
        """Let two sequences change places; False, and either may be empty, without enough free cells."""
        states = self._read(first, _WHOLE), self._read(second, _WHOLE)
        self.clear(second)
        return self.restore(states[1], first) & self.restore(states[0], second)

    def checkpoint(self, seq_id: int) -> SavedState:
        """What `rewind` needs to come back to the present length: nothing for a memory that can be cut anyway."""
        self._check(seq_id)
        return np.empty(0, np.uint8) if self.kind is MemoryKind.FULL else self._read(seq_id, _PARTIAL, _kept_bytes)

    def rewind(self, seq_id: int, checkpoint: SavedState, length: int) -> bool:
        """Go back to `length`, at which the checkpoint was taken, of this sequence or of the one it was copied from.

        False where the sequence is shorter than that; if the checkpoint does not fit, the sequence is empty.
        """
        if not 0 < length <= self.length(seq_id):
            return False
        if self.kind is MemoryKind.FULL:
            return self.truncate(seq_id, length)
        if not self._write(checkpoint, seq_id, _PARTIAL):
            return False
        if self.length(seq_id) != length:  # it was taken somewhere else
            self.clear(seq_id)
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, seq_id, length, -1))

    def _can_cut(self, seq_id: int, length: int) -> bool:
        """Whether the first `length` tokens can be had without the others."""
        present = self.length(seq_id)
        if not 0 <= length <= present:
            return False
        if self.kind is MemoryKind.FULL or length in {0, present}:
            return True
        if self.kind is not MemoryKind.WINDOWED:
            return False
        # The next token will look at itself and the window before it, and some layers forget what lies further back.
        oldest = int(lib.llama_memory_seq_pos_min(self._memory, seq_id))
        return oldest <= max(0, length + 1 - self._window)

    def _read(self, seq_id: int, flags: int, room: Callable[[int], SavedState] = _passing_bytes) -> SavedState:
        self._check(seq_id)
        size = lib.llama_state_seq_get_size_ext(self._context, seq_id, flags)
        state = room(size)
        written = lib.llama_state_seq_get_data_ext(self._context, _bytes_of(state), size, seq_id, flags)
        return state[:written]

    def _write(self, state: SavedState, seq_id: int, flags: int) -> bool:
        if lib.llama_state_seq_set_data_ext(self._context, _bytes_of(state), state.nbytes, seq_id, flags):
            return True
        self.clear(seq_id)  # some layers may have taken it before another had no room
        return False

    def _check(self, seq_id: int) -> None:
        if not 0 <= seq_id < self._seats:
            raise ValueError(f"there is no sequence {seq_id} among {self._seats}")


def _bytes_of(state: SavedState) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
