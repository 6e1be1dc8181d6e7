"""The attention state of many sequences over one model, and the decode call that advances them."""

import ctypes
from enum import IntEnum
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from neuron_lib.errors import LoadFailed
from neuron_lib.llama.abort_flag import AbortFlag
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import lib
from neuron_lib.llama.memory import Memory
from neuron_lib.llama.model import Model
from neuron_lib.llama.vocab import Vocab
from neuron_lib.types import ContextParams

__all__ = ("KV_TYPES", "Context", "DecodeStatus", "native_parameters")

KV_TYPES: Final[dict[str, int]] = {
    "f32": lib.GGML_TYPE_F32,
    "f16": lib.GGML_TYPE_F16,
    "q8_0": lib.GGML_TYPE_Q8_0,
    "q5_1": lib.GGML_TYPE_Q5_1,
    "q5_0": lib.GGML_TYPE_Q5_0,
    "q4_1": lib.GGML_TYPE_Q4_1,
    "q4_0": lib.GGML_TYPE_Q4_0,
}
_FLASH_ATTN: Final[dict[str, int]] = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


def native_parameters(params: ContextParams, *, seats: int) -> Any:
    """The native parameters of a `Context` with these arguments."""
    unified = params.kv_layout == "unified"
    native = lib.llama_context_default_params()
    # libllama shares the cells out evenly while kv_unified is off.
    native.n_ctx = params.kv_cells if unified and params.kv_cells else params.n_ctx * seats
    native.n_seq_max = seats
    native.n_batch = params.n_batch
    native.n_ubatch = min(params.n_ubatch, params.n_batch)
    native.n_threads = native.n_threads_batch = params.threads
    native.flash_attn_type = _FLASH_ATTN[params.flash_attn]
    native.type_k, native.type_v = KV_TYPES[params.kv_type_k], KV_TYPES[params.kv_type_v]
    native.kv_unified = unified
    native.swa_full = params.swa_full
    native.no_perf = True
    return native


class DecodeStatus(IntEnum):
    """What `llama_decode` returns; anything below `INVALID_BATCH` leaves the context unusable."""

    OK = 0
    NO_CELLS = 1
    ABORTED = 2
    INVALID_BATCH = -1
    FATAL = -2


class Context:
    """`seats` sequences, each with KV cells of its own or all in one pool. Blocking; one thread at a time.

    `memory` is what the sequences remember. The context ends with its `with` block, and must not be used after it.
    """

    def __init__(self, model: Model, params: ContextParams, *, seats: int, cell_bytes: int = 0) -> None:
        """Allocate the KV cells, each of `cell_bytes` bytes, as was measured before; 0 where that is not known.

        `n_ctx` and `threads` of `params` are settled, and not 0. With the layout `unified` the sequences share
        `kv_cells` (0: as many as all can fill); with any other each sequence has `n_ctx` cells.

        Raises `LoadFailed`, with the sizes that were asked for, if llama.cpp cannot do it. Raises `LoadFailed` also for
        a model without memory, which reads a text as a whole and cannot write one.
        """
        n_ctx, unified = params.n_ctx, params.kv_layout == "unified"
        native = native_parameters(params, seats=seats)
        cells = native.n_ctx
        self._pointer: Any = lib.llama_init_from_model(model.pointer, native)
        if not self._pointer:
            raise LoadFailed(
                f"llama.cpp could not create a context of {seats} sequences of {n_ctx} tokens in {cells} cells",
                seats=seats,
                n_ctx=n_ctx,
                cells=cells,
            )
        if not lib.llama_get_memory(self._pointer):
            lib.llama_free(self._pointer)
            raise LoadFailed(f"{model.description} has no memory for a text that grows, so it cannot write one")
        self._abort_flag: Final = AbortFlag()
        lib.llama_set_abort_callback(self._pointer, self._abort_flag.callback, self._abort_flag.data)
        self.is_unified: Final = unified
        self.cell_bytes: Final = cell_bytes
        self.memory: Memory = Memory(self._pointer, model, seats=seats, unified=unified)
        self._longest = n_ctx if unified else int(lib.llama_n_ctx_seq(self._pointer))
        self._n_vocab = model.vocab.n_tokens
        self._rows_at = (0, 0)  # address and number of the rows of scores that `_rows` shows
        self._rows: npt.NDArray[np.float32] = np.empty((0, self._n_vocab), np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        lib.llama_free(self._pointer)
        self._pointer = None

    @property
    def pointer(self) -> Any:
        """The native handle."""
        return self._pointer

    @property
    def n_ctx(self) -> int:
        """Tokens one sequence can have. libllama rounds up what was asked for; a pool may hold less."""
        return min(self._longest, self.kv_cells)

    @property
    def kv_cells(self) -> int:
        """Cells of all sequences together."""
        return int(lib.llama_n_ctx(self._pointer))

    @property
    def n_batch(self) -> int:
        """Tokens one decode call takes; libllama lowers it to the size of the whole context."""
        return int(lib.llama_n_batch(self._pointer))

    def decode(self, batch: Batch) -> DecodeStatus:
        """Compute the batch and wait for it; the GIL is free meanwhile."""
        status = lib.llama_decode(self._pointer, batch.native())
        lib.llama_synchronize(self._pointer)
        return DecodeStatus(max(status, DecodeStatus.FATAL))

    def abort(self) -> None:
        """End the `decode` that runs, and every later one, with `ABORTED`. Any thread may call this."""
        self._abort_flag.set()

    def warm_up(self, vocab: Vocab) -> None:
        """Decode one token and forget it: the weights are read from disk, and a device that cannot compute fails now.

        Raises `LoadFailed`, also for weights whose scores are NaN or infinite.
        """
        batch = Batch(1)
        row = batch.add(0, [vocab.any_token], position=0, wants_logits=True)
        status = self.decode(batch)
        if status != DecodeStatus.OK:
            raise LoadFailed(f"the model does not compute: the first token gave {status.name}")
        scores = self.logits(row)
        if not np.isfinite(scores).all():
            wrong = "NaN" if np.isnan(scores).any() else "infinite"
            raise LoadFailed(
                f"the model does not compute: scores of the first token are {wrong}, so its weights may be damaged"
            )
        self.memory.clear(0)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """The scores of the batch index `row`, which asked for them.

        The result is float32[n_vocab], a view that is valid until the next `decode`.
        """
        return np.ctypeslib.as_array(lib.llama_get_logits_ith(self._pointer, row), (self._n_vocab,))

    def all_logits(self, count: int) -> npt.NDArray[np.float32]:
        """The `count` rows of scores that the last batch asked for, in its order.

        The result is float32[count, n_vocab], a view that is valid until the next `decode`.
        """
        pointer = lib.llama_get_logits(self._pointer)
        where = ctypes.addressof(pointer.contents), count
        if where != self._rows_at:  # making a view takes as long as choosing a token from it
            self._rows_at, self._rows = where, np.ctypeslib.as_array(pointer, (count, self._n_vocab))
        return self._rows
