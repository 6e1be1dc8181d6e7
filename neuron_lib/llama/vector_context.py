"""A context that reads whole texts and gives one vector of each, or the outputs of a classifier. It remembers nothing
between two calls.
"""

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from neuron_lib.errors import LoadFailed
from neuron_lib.llama.abort_flag import AbortFlag
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import lib
from neuron_lib.llama.context import DecodeStatus
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams

__all__ = ("VectorContext", "native_vector_parameters")


def native_vector_parameters(params: ContextParams, *, seats: int, n_batch: int, pooling: int) -> Any:
    """The native parameters of a `VectorContext` with these arguments."""
    native = lib.llama_context_default_params()
    # The vectors of a text can be pooled only if all of it is computed in one piece: so there is one pool of cells,
    # and the batch is not divided.
    native.n_ctx = native.n_batch = native.n_ubatch = n_batch
    native.kv_unified = True
    native.n_seq_max = seats
    native.n_threads = native.n_threads_batch = params.threads
    native.embeddings = True
    native.pooling_type = pooling
    native.no_perf = True
    return native


class VectorContext:
    """Reads at most `seats` texts at once. Blocking; one thread at a time. Ends with its `with` block."""

    def __init__(self, model: Model, params: ContextParams, *, seats: int, n_batch: int) -> None:
        """Allocate the buffers for `n_batch` tokens of all texts of a call together.

        Raises `LoadFailed` if llama.cpp cannot do it, or if the model does not compute. A model that does not say how
        to pool the vectors of its tokens gets their mean.
        """
        pointer = self._open(model, params, seats, n_batch, lib.LLAMA_POOLING_TYPE_UNSPECIFIED)
        if lib.llama_pooling_type(pointer) == lib.LLAMA_POOLING_TYPE_NONE:
            lib.llama_free(pointer)
            pointer = self._open(model, params, seats, n_batch, lib.LLAMA_POOLING_TYPE_MEAN)
        self._pointer: Any = pointer
        self.n_batch: Final = n_batch
        self.seats: Final = seats
        self._memory: Final[Any] = lib.llama_get_memory(pointer)  # None for an encoder
        self._classifies: Final = lib.llama_pooling_type(pointer) == lib.LLAMA_POOLING_TYPE_RANK
        self.width: Final = self._width_of(model)
        """How many numbers a vector has."""
        self._abort_flag: Final = AbortFlag()
        lib.llama_set_abort_callback(pointer, self._abort_flag.callback, self._abort_flag.data)
        batch = Batch(1)
        batch.add(0, [model.vocab.any_token], position=0, wants_logits=1)
        status, vectors = self.compute(batch, [0])
        if status != DecodeStatus.OK or not np.isfinite(vectors[0]).all():
            lib.llama_free(pointer)
            raise LoadFailed(f"the model does not compute: the vector of the first token gave {status.name}")

    def _width_of(self, model: Model) -> int:
        count = lib.llama_model_n_cls_out if self._classifies else lib.llama_model_n_embd_out
        return int(count(model.pointer))

    @staticmethod
    def _open(model: Model, params: ContextParams, seats: int, n_batch: int, pooling: int) -> Any:
        native = native_vector_parameters(params, seats=seats, n_batch=n_batch, pooling=pooling)
        pointer = lib.llama_init_from_model(model.pointer, native)
        if not pointer:
            raise LoadFailed(f"llama.cpp could not create a context for vectors of {n_batch} tokens", n_batch=n_batch)
        return pointer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        lib.llama_free(self._pointer)
        self._pointer = None

    def compute(self, batch: Batch, seq_ids: Sequence[int]) -> tuple[DecodeStatus, list[npt.NDArray[np.float32]]]:
        """The vectors of these sequences, which the batch holds whole; float32[width].

        They have length 1, unless they are the outputs of a classifier, which are left as they are. The GIL is free
        meanwhile. Without `DecodeStatus.OK` there are no vectors.
        """
        if self._memory:
            lib.llama_memory_clear(self._memory, True)
        status = DecodeStatus(max(lib.llama_decode(self._pointer, batch.native()), DecodeStatus.FATAL))
        lib.llama_synchronize(self._pointer)
        return status, [self._vector(seq_id) for seq_id in seq_ids] if status == DecodeStatus.OK else []

    def _vector(self, seq_id: int) -> npt.NDArray[np.float32]:
        pointer = lib.llama_get_embeddings_seq(self._pointer, seq_id)
        vector = np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self.width,))
        if self._classifies:
            return vector.copy()
        length = np.float32(np.linalg.norm(vector))
        return np.asarray(vector / length if length > 0 else vector.copy(), np.float32)

    def abort(self) -> None:
        """End the computation that runs, and every later one, with `ABORTED`. Any thread may call this."""
        self._abort_flag.set()
