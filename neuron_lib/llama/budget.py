"""What the cells of a context cost and how much memory is free for them. Asked before a context is made."""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec import structs

from neuron_lib.cgroups import allowed_by_cgroups
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.bindings import lib
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams

__all__ = ("KvCost", "free_bytes", "measure_kv")

_GPU: Final = 1
"""GGML_BACKEND_DEVICE_TYPE_GPU. An integrated one uses the host's memory."""
_SIZE_P: Final = ctypes.POINTER(ctypes.c_size_t)
_WINDOW_STEP: Final = 256
"""libllama rounds the cells for windows up to a multiple."""


@dataclass(slots=True, frozen=True)
class KvCost:
    """Bytes per token of context, and bytes per sequence beside that: its windows and its recurrent state."""

    cell_bytes: int
    seat_bytes: int


def measure_kv(model: Model, params: ContextParams) -> KvCost:
    """What a context with these parameters costs, measured: two tokens are decoded in a context of the smallest size.

    The second token shows the cost of a cell. It is measured because layers differ, and no public function of libllama
    says by how much. A saved cell has its position beside its values, so a cell comes out 12 bytes too dear. Raises
    `LoadFailed` if the model does not compute.
    """
    smallest = structs.replace(
        params, n_ctx=1, n_batch=1, n_ubatch=1, threads=1, kv_layout="per_sequence", kv_cells=0, swa_full=False
    )
    with Context(model, smallest, seats=1) as context:
        whole_one, part_one = _state_bytes_after_token(context, model.vocab.any_token)
        whole_two, part_two = _state_bytes_after_token(context, model.vocab.any_token)
    whole, windows = whole_two - whole_one, part_two - part_one
    if windows in {0, whole}:  # no windows, or nothing that is not saved with them
        return KvCost(cell_bytes=whole, seat_bytes=0 if windows else part_one)
    window_cells = -(-(lib.llama_model_n_swa(model.pointer) + params.n_ubatch) // _WINDOW_STEP) * _WINDOW_STEP
    return KvCost(cell_bytes=whole - windows, seat_bytes=window_cells * windows)


def free_bytes(model: Model, *, gpu_layers: int) -> int:
    """Bytes of memory that the weights leave for cells: of the GPUs if they hold layers, else of the host."""
    if gpu_layers != 0 and (devices := _gpu_devices()):
        return sum(map(_free_on_device, devices))
    # Weights are mapped files, which the kernel counts as available although every step reads all of them.
    return max(0, _available_on_host() - model.size_bytes)


def _state_bytes_after_token(context: Context, token: int) -> tuple[int, int]:
    """The bytes of what sequence 0 remembers after one more token, and of the part that cannot be cut."""
    batch = Batch(1)
    batch.add(0, [token], position=context.memory.length(0), wants_logits=1)
    status = context.decode(batch)
    if status is not DecodeStatus.OK:
        raise LoadFailed(f"the model does not compute: a token gave {status.name}")
    return context.memory.save(0).nbytes, context.memory.checkpoint(0).nbytes


def _available_on_host() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            allowed = allowed_by_cgroups()
            return available if allowed is None else min(available, allowed)
    raise LoadFailed("the kernel does not say how much memory is available")


def _gpu_devices() -> list[Any]:
    devices = map(_device, range(_device_count()))
    return [device for device in devices if _device_type(device) == _GPU]


def _free_on_device(device: Any) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _device_memory(device, ctypes.byref(free), ctypes.byref(total))
    return free.value


# llama_cpp binds nothing of ggml's device list, though its library brings it along. Its decorator has no types.
@lib.ctypes_function("ggml_backend_dev_count", [], ctypes.c_size_t)  # type: ignore[untyped-decorator]
def _device_count() -> Any: ...


@lib.ctypes_function("ggml_backend_dev_get", [ctypes.c_size_t], ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _device(index: int) -> Any: ...


@lib.ctypes_function("ggml_backend_dev_type", [ctypes.c_void_p], ctypes.c_int)  # type: ignore[untyped-decorator]
def _device_type(device: Any) -> Any: ...


@lib.ctypes_function("ggml_backend_dev_memory", [ctypes.c_void_p, _SIZE_P, _SIZE_P], None)  # type: ignore[untyped-decorator]
def _device_memory(device: Any, free: Any, total: Any) -> None: ...
