"""The memory of the sequences of one context: measured, cut, copied, saved and restored. Blocking.

This module owns every call to libllama's memory and never makes calls that end the process. It has no policy: the
scheduler decides what to share, keep or forget.
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
"""uint8 of shape (nbytes,): the saved bytes of one sequence. Valid only for the context that they came from."""

_WHOLE: Final = 0
_PARTIAL: Final = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
"""The flag for the part that cannot be cut: windows and recurrent states, without the cells of full attention."""


_MAPPED_FROM: Final = 1 << 20


class MemoryKind(StrEnum):
    """How a model remembers: everything, a window in some layers, a recurrent state, or a recurrent state beside
    everything.
    """

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
    """A buffer for a short time. The allocator usually has one from the time before."""
    return np.empty(size, np.uint8)


def _kept_bytes(size: int) -> SavedState:
    """A buffer for a long time. It comes from the kernel with all pages at once, and goes back to it when it is
    dropped.

    Pages that are touched one by one take 30 ms for 15 MiB instead of 5 (measured), and all replies wait meanwhile.
    """
    if size < _MAPPED_FROM:
        return np.empty(size, np.uint8)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint8)


class Memory:
    """The memory of `seats` sequences, numbered from 0. Lengths are in tokens, from the beginning of a sequence.

    Lives as long as its context. One thread at a time. Every call takes effect at once and in order, whatever has been
    decoded. Methods that return `bool` say whether the sequence is now as wanted. All methods raise `ValueError` for a
    sequence that does not exist, because libllama would end the process.
    """

    def __init__(self, context: Any, model: Model, *, seats: int, unified: bool) -> None:
        """`context` is the native handle of a context for `seats` sequences, in one pool or in KV streams."""
        self._context: Final = context
        self._memory: Final[Any] = lib.llama_get_memory(context)
        self._window: Final = int(lib.llama_model_n_swa(model.pointer))
        self._seats: Final = seats
        self.kind: Final = memory_kind(model)
        self.shares_cells: Final = unified and self.kind is not MemoryKind.WINDOWED
        """Whether a copy uses the cells of the original instead of its own.

        Windowed models copy their cells. If they shared them, they would run out of cells: libllama does not reuse a
        cell with two owners, even if no sequence looks at it any more, and its pool for windows is small. Four forks of
        200 tokens ended 14 tokens later.
        """
        self.can_truncate: Final = self.kind is MemoryKind.FULL
        """Whether every cut of a sequence or of its copy works.

        For other kinds some cuts work, and `truncate` says so: a windowed one works if the window before the cut is
        still there. `swa_full` makes that likely but not certain, because libllama saves only the windows, and in a
        pool other sequences take the cells outside of them.
        """

    def length(self, seq_id: int) -> int:
        """The number of tokens that the sequence remembers."""
        self._check(seq_id)
        return int(lib.llama_memory_seq_pos_max(self._memory, seq_id)) + 1

    def clear(self, seq_id: int) -> None:
        """Forget the whole sequence. Every kind of memory can do this."""
        self._check(seq_id)
        lib.llama_memory_seq_rm(self._memory, seq_id, -1, -1)

    def truncate(self, seq_id: int, length: int) -> bool:
        """Forget everything after the first `length` tokens. False: this is not possible, and nothing was forgotten."""
        if not self._can_cut(seq_id, length):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, seq_id, length, -1))

    def copy(self, source: int, target: int, length: int) -> bool:
        """Make `target` the first `length` tokens of `source`. False: this is not possible, and `target` is empty.

        Takes microseconds if cells are shared. Otherwise the copy goes through host memory, as with `save` and
        `restore`.
        """
        if source == target:
            raise ValueError(f"sequence {source} cannot be copied to itself")
        self.clear(target)
        if not self._can_cut(source, length):
            return False
        if length == 0:
            return True  # libllama would copy a recurrent state even then
        if self.shares_cells:
            lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
            return True
        # llama_memory_seq_cp between KV streams is delayed. The next decode copies the whole stream, used or not, over
        # everything that was restored in between. With 4096 cells of SmolLM2 that takes 5.5 ms whatever the length. The
        # way below takes 0.3 ms for 100 tokens and 7 ms for 2000 (measured). If only a part of a stream is to be
        # copied, libllama ends the process.
        if self.restore(self._read(source, _WHOLE), target) and self.truncate(target, length):
            return True
        self.clear(target)
        return False

    def save(self, seq_id: int) -> SavedState:
        """The bytes of everything that the sequence remembers, in host memory. Its cells stay. Costs time for used
        cells only.

        Valid only for this context.
        """
        return self._read(seq_id, _WHOLE, _kept_bytes)

    def restore(self, state: SavedState, seq_id: int) -> bool:
        """Make the sequence what was saved, also from another sequence. False: there are too few cells, and the
        sequence is empty.
        """
        self.clear(seq_id)  # restoring an empty state would not clear the sequence
        return self._write(state, seq_id, _WHOLE)

    def swap(self, first: int, second: int) -> bool:
        """Exchange two sequences. False: there are too few free cells, and either may be empty."""
        states = self._read(first, _WHOLE), self._read(second, _WHOLE)
        self.clear(second)
        return self.restore(states[1], first) & self.restore(states[0], second)

    def checkpoint(self, seq_id: int) -> SavedState:
        """The bytes that `rewind` needs to return to the present length. Empty for a memory that can always be cut."""
        self._check(seq_id)
        return np.empty(0, np.uint8) if self.kind is MemoryKind.FULL else self._read(seq_id, _PARTIAL, _kept_bytes)

    def rewind(self, seq_id: int, checkpoint: SavedState, length: int) -> bool:
        """Return to `length`, at which the checkpoint was taken, from this sequence or from the one that it was copied
        from.

        False if the sequence is shorter than that. If the checkpoint does not fit, the sequence is empty afterwards.
        """
        if not 0 < length <= self.length(seq_id):
            return False
        if self.kind is MemoryKind.FULL:
            return self.truncate(seq_id, length)
        if not self._write(checkpoint, seq_id, _PARTIAL):
            return False
        if self.length(seq_id) != length:  # the checkpoint was taken at another length
            self.clear(seq_id)
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, seq_id, length, -1))

    def _can_cut(self, seq_id: int, length: int) -> bool:
        """Whether the memory can be reduced to the first `length` tokens."""
        present = self.length(seq_id)
        if not 0 <= length <= present:
            return False
        if self.kind is MemoryKind.FULL or length in {0, present}:
            return True
        if self.kind is not MemoryKind.WINDOWED:
            return False
        # The next token looks at itself and at the window before it. Some layers forget everything before that.
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
        self.clear(seq_id)  # some layers may have accepted the state before another had no room
        return False

    def _check(self, seq_id: int) -> None:
        if not 0 <= seq_id < self._seats:
            raise ValueError(f"there is no sequence {seq_id} among {self._seats}")


def _bytes_of(state: SavedState) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
