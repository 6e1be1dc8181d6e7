"""How many bytes libllama would allocate on each device for a model and a context, without allocating them. Blocking.

libllama itself counts them, in a model that was opened as a dry run. It gives the result to C++ only, as a `std::map`.
This module reads that map from memory, in the layout of GNU's C++ library, which every build for Linux with GCC has.
`can_dry_run` says whether the function is there. Nothing else of libllama's C++ interface is used anywhere.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from neuron_lib.errors import LoadFailed
from neuron_lib.llama.bindings import lib
from neuron_lib.llama.context import native_parameters
from neuron_lib.llama.devices import CPU, device_of_buffers
from neuron_lib.llama.model import Model
from neuron_lib.llama.vector_context import native_vector_parameters
from neuron_lib.types import ContextParams

__all__ = ("Allocation", "allocations_of", "can_dry_run", "dry_context", "dry_vector_context")

_SYMBOL: Final = "_Z26llama_get_memory_breakdownPK13llama_context"
_MOST_BUFFER_TYPES: Final = 256
_WORD: Final = ctypes.c_size_t


class _Map(ctypes.Structure):
    """A `std::map` of GNU's library: an empty comparison, the head of the tree, and the number of its nodes."""

    _fields_ = (
        ("comparison", _WORD),
        ("color", _WORD),
        ("root", ctypes.c_void_p),
        ("leftmost", ctypes.c_void_p),
        ("rightmost", ctypes.c_void_p),
        ("count", _WORD),
    )


class _Node(ctypes.Structure):
    """A node of the tree: the type of a buffer, and the bytes of the buffers of this type."""

    _fields_ = (
        ("color", _WORD),
        ("parent", ctypes.c_void_p),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("buffer_type", ctypes.c_void_p),
        ("weights", _WORD),
        ("context", _WORD),
        ("compute", _WORD),
    )


@dataclass(slots=True, frozen=True)
class Allocation:
    """Bytes on one device: of weights, of what sequences remember, and of the buffers of one decode call."""

    weights: int = 0
    context: int = 0
    compute: int = 0

    def __add__(self, other: "Allocation") -> "Allocation":
        return Allocation(self.weights + other.weights, self.context + other.context, self.compute + other.compute)

    @property
    def total(self) -> int:
        """All bytes."""
        return self.weights + self.context + self.compute


def can_dry_run() -> bool:
    """Whether the libllama of this process says what it would allocate."""
    return _breakdown() is not None


def dry_context(model: Model, params: ContextParams, *, seats: int) -> dict[str, Allocation]:
    """What `Context(model, params, seats=seats)` would take on each device (`neuron_lib.llama.devices`).

    The model must be a dry run, and `can_dry_run` must hold. Takes a few hundredths of a second. Raises `LoadFailed` if
    libllama cannot do it.
    """
    return _measure(model, native_parameters(params, seats=seats))


def dry_vector_context(model: Model, params: ContextParams, *, seats: int, n_batch: int) -> dict[str, Allocation]:
    """What a `VectorContext` of these arguments would take on each device. As `dry_context`."""
    pooling = lib.LLAMA_POOLING_TYPE_UNSPECIFIED
    return _measure(model, native_vector_parameters(params, seats=seats, n_batch=n_batch, pooling=pooling))


def allocations_of(context: Any) -> dict[str, Allocation]:
    """The bytes by device of a native context: those that it has, or would have if its model is a dry run."""
    breakdown = _breakdown()
    if breakdown is None:
        raise LoadFailed("this build of llama.cpp does not say what it allocates")
    found = breakdown(context)
    nodes = list(_walk(found.root)) if found.count <= _MOST_BUFFER_TYPES else []
    if len(nodes) != found.count:
        raise LoadFailed("this build of llama.cpp says in an unknown form what it allocates")
    taken: dict[str, Allocation] = {CPU: Allocation()}
    for node in nodes:
        device = device_of_buffers(node.buffer_type)
        taken[device] = taken.get(device, Allocation()) + Allocation(node.weights, node.context, node.compute)
    return taken


def _measure(model: Model, native: Any) -> dict[str, Allocation]:
    context = lib.llama_init_from_model(model.pointer, native)
    if not context:
        raise LoadFailed(f"llama.cpp could not plan a context of {native.n_ctx} cells", cells=native.n_ctx)
    try:
        return allocations_of(context)
    finally:
        lib.llama_free(context)


def _walk(address: int | None, left: int = _MOST_BUFFER_TYPES) -> Iterator[_Node]:
    """The nodes below one, itself included."""
    if address and left:
        node = _Node.from_address(address)
        yield from _walk(node.left, left - 1)
        yield node
        yield from _walk(node.right, left - 1)


def _breakdown() -> Any:
    try:
        function = lib._lib[_SYMBOL]
    except AttributeError:
        return None
    # The result is larger than two registers, so the caller gives the place for it: ctypes does that for a structure.
    function.restype, function.argtypes = _Map, [ctypes.c_void_p]
    return function
