"""The tokens of one native decode call, in buffers that Python owns and reuses."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from neuron_lib.llama.bindings import lib

__all__ = ("Batch",)


class Batch:
    """Room for `capacity` tokens. The native struct points into numpy arrays, so filling the batch is a slice
    assignment.

    Lives as long as its context and is filled anew for each step. One thread at a time.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size: int = 0
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._seq_ids = np.zeros(capacity, np.int32)
        self._wants_logits = np.zeros(capacity, np.int8)
        self._seq_counts = np.ones(capacity, np.int32)
        int32_p = ctypes.POINTER(ctypes.c_int32)
        first = self._seq_ids.ctypes.data
        stride = self._seq_ids.itemsize
        self._seq_id_rows = (int32_p * capacity)(*(ctypes.cast(first + i * stride, int32_p) for i in range(capacity)))
        self._native = lib.llama_batch()
        self._native.token = self._tokens.ctypes.data_as(int32_p)
        self._native.pos = self._positions.ctypes.data_as(int32_p)
        self._native.n_seq_id = self._seq_counts.ctypes.data_as(int32_p)
        self._native.seq_id = self._seq_id_rows
        self._native.logits = self._wants_logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def clear(self) -> None:
        """Remove the tokens of the last call."""
        self.size = 0

    def add(self, seq_id: int, tokens: Sequence[int], *, position: int, wants_logits: int) -> int:
        """Append consecutive tokens of one sequence. Each of the last `wants_logits` tokens gets a row of scores; a
        number, not a flag.

        Returns the batch index of the first of these rows. The others follow it. Without rows it is the index of the
        last token.
        """
        start, end = self.size, self.size + len(tokens)
        if end > self.capacity:
            # libllama ends the process if a batch is too large (GGML_ASSERT), so such a batch must not reach it.
            raise ValueError(f"batch of {end} tokens exceeds its capacity of {self.capacity}")
        if wants_logits > len(tokens):
            raise ValueError(f"{len(tokens)} tokens have no {wants_logits} rows")
        if min(tokens, default=0) < 0:
            raise ValueError(f"token {min(tokens)} stands for media, which this batch cannot hold yet")
        if end == start + 1:  # what a step mostly is, and single items cost a quarter of slices
            self._tokens[start], self._positions[start] = tokens[0], position
            self._seq_ids[start], self._wants_logits[start] = seq_id, wants_logits
            self.size = end
            return start
        self._tokens[start:end] = tokens
        self._positions[start:end] = range(position, position + len(tokens))
        self._seq_ids[start:end] = seq_id
        self._wants_logits[start:end] = 0
        self._wants_logits[end - wants_logits : end] = 1
        self.size = end
        return end - max(wants_logits, 1)

    def native(self) -> Any:
        """The struct for `llama_decode`. Valid until the next `add` or `clear`."""
        self._native.n_tokens = self.size
        return self._native
