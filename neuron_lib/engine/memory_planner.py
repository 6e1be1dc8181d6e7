"""Plans how a model is loaded: its layout of cells, and the bytes on each device. Blocking; reads no weights.

libllama counts the bytes in a dry run (`llama.dry_run`), so they are those that the load will allocate. `kv_layout`
decides by these numbers.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

from msgspec import structs

from neuron_lib.engine.kv_layout import CELL_STEP, DeviceRoom, KvLayout, choose_layout, smaller_pool
from neuron_lib.engine.process_stats import bytes_resident
from neuron_lib.engine.protocol import Load
from neuron_lib.engine.vector_batch import vector_batch
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.devices import CPU, free_bytes, total_bytes
from neuron_lib.llama.dry_run import Allocation, can_dry_run, dry_context, dry_vector_context
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams, DeviceNeed, MemoryPlan

__all__ = ("context_length", "plan_load", "require_servable", "settle_context")

logger: logging.Logger = logging.getLogger("neuron_lib.engine")

_Taken: TypeAlias = Mapping[str, Allocation]
_MOST_TRIES: Final = 4
_NOTE_BYTES: Final = 48
"""What libllama notes about each cell in the host's memory: its position, and the sequences that it belongs to."""
_ENGINE_BYTES: Final = 4 << 20
"""What the process takes beside the model as soon as it serves: its threads and templates (measured)."""
_VOCABULARY_BYTES: Final = 96
"""What grammars take for each token of the vocabulary (measured: 5 MB of 49,152 tokens, 25 MB of 262,144)."""


def plan_load(load: Load) -> MemoryPlan | None:
    """How `load` will be done, and what it will take. None if this libllama does not say what it would allocate.

    Raises `LoadFailed` for a file that is no model, for a model that cannot be served, and for a context that libllama
    refuses.
    """
    if not can_dry_run():
        logger.warning("this build of llama.cpp does not say what it allocates, so no load is checked before it begins")
        return None
    path = Path(load.path)
    with Model(
        path,
        gpu_layers=load.context.gpu_layers,
        on_progress=lambda _: True,
        is_dry=True,
        beside_gpus=load.beside_gpus,
    ) as model:
        require_servable(model)
        process_bytes = bytes_resident() + _ENGINE_BYTES + _VOCABULARY_BYTES * model.vocab.n_tokens
        room = _Room(
            process_bytes=process_bytes, assumes_empty=load.assumes_empty, host_limit_bytes=load.host_limit_bytes
        )
        return _plan_chat(model, load, room) if model.can_chat else _plan_vectors(model, load, room)


def settle_context(load: Load, plan: MemoryPlan | None, *, native_context: int) -> ContextParams:
    """The parameters of the context, with nothing left open.

    Without a plan `auto` means cells of its own for each sequence, because nobody knows how many cells would fit.
    """
    asked = load.context
    if plan is None:
        unified = asked.kv_layout == "unified" or (asked.kv_layout == "auto" and asked.kv_cells > 0)
        n_ctx, cells = context_length(asked, native_context), asked.kv_cells
    else:
        unified, n_ctx, cells = plan.kv_layout == "unified", plan.n_ctx, plan.kv_cells
    layout: Final = "unified" if unified else "per_sequence"
    return structs.replace(asked, n_ctx=n_ctx, kv_layout=layout, kv_cells=cells)


def context_length(params: ContextParams, native_context: int) -> int:
    """Tokens of one request's context: what was asked for, at most what the model was trained for."""
    return min(params.n_ctx or native_context, native_context)


def require_servable(model: Model) -> None:
    """Raise `LoadFailed` for a model that no engine can serve."""
    if model.refusal is not None:
        raise LoadFailed(f"{model.description} cannot be served: {model.refusal}")


class _Room:
    """The memory that a load may take on each device."""

    def __init__(self, *, process_bytes: int, assumes_empty: bool, host_limit_bytes: int | None) -> None:
        """`process_bytes` is what the engine's process takes beside the model.

        With `assumes_empty` no other program takes any memory. Of the host's memory the load may take no more than
        `host_limit_bytes`, if that is not None.
        """
        self.process_bytes: Final = process_bytes
        self._assumes_empty: Final = assumes_empty
        self._host_limit_bytes: Final = host_limit_bytes
        self._resident_bytes: Final = bytes_resident()
        self._free: dict[str, int] = {}  # asked once, so that all parts of a plan have the same number

    def free(self, device: str) -> int:
        """What is free on a device for the whole load, this process included."""
        if device not in self._free:
            own = self._resident_bytes if device == CPU and not self._assumes_empty else 0
            free = total_bytes(device) if self._assumes_empty else free_bytes(device) + own
            limit = self._host_limit_bytes if device == CPU else None
            self._free[device] = free if limit is None else min(free, limit)
        return self._free[device]

    def process(self, device: str) -> int:
        """What the engine's process takes on a device."""
        return self.process_bytes if device == CPU else 0

    def free_for_model(self, device: str) -> int:
        """What is free on a device for weights, cells and buffers."""
        return max(0, self.free(device) - self.process(device))


def _notes(device: str, cells: int) -> int:
    """The bytes that libllama's notes about so many cells take on a device."""
    return _NOTE_BYTES * cells if device == CPU else 0


def _plan_chat(model: Model, load: Load, room: _Room) -> MemoryPlan:
    params = structs.replace(load.context, n_ctx=context_length(load.context, model.native_context))
    dry_runs = _DryRuns(model, params, seats=load.seats)
    layout, taken = _choose_layout(params, load.seats, dry_runs, room)
    logger.info(
        "KV layout: %s of %d cells; %s",
        "one pool" if layout.unified else "a stream for each sequence, all together",
        layout.cells,
        "; ".join(
            f"{device}: {each.weights >> 20} MiB of weights, {each.context >> 20} MiB of cells, {each.compute >> 20} "
            f"MiB to compute, {room.free(device) >> 20} MiB free"
            for device, each in taken.items()
        ),
    )
    return structs.replace(
        _plan(model, taken, load, room, cells=layout.cells),
        n_ctx=min(params.n_ctx, layout.cells),
        kv_layout="unified" if layout.unified else "per_sequence",
        kv_cells=layout.cells,
        kv_type_k=params.kv_type_k,
        kv_type_v=params.kv_type_v,
    )


class _DryRuns:
    """Measures contexts of one model, and computes what those would take that are too large to be measured.

    libllama keeps a few bytes of notes for each cell also in a dry run. So a dry run of a context that no host could
    have would itself take more memory than there is.
    """

    def __init__(self, model: Model, params: ContextParams, *, seats: int) -> None:
        self._model: Final = model
        self._params: Final = params
        self._seats: Final = seats
        # Layers with a window have all their cells from here on, so the other cells alone make the difference.
        whole = min(params.n_ctx, -(-(model.window + params.n_ubatch) // CELL_STEP) * CELL_STEP + CELL_STEP)
        self._few: Final = whole * seats, self._measure("per_sequence", n_ctx=whole)
        more = min(params.n_ctx, 2 * whole)
        self._more: Final = more * seats, self._measure("per_sequence", n_ctx=more)

    def room(self, device: str, free_bytes: int) -> DeviceRoom:
        """What cells cost on a device, with the notes about them."""

        def size(measured: tuple[int, _Taken]) -> tuple[int, int]:
            cells, taken = measured
            return cells, taken[device].total + _notes(device, cells)

        return DeviceRoom.from_two(smaller=size(self._few), larger=size(self._more), free_bytes=free_bytes)

    @property
    def devices(self) -> Iterable[str]:
        """The devices that hold a part of the model."""
        return self._more[1].keys()

    def taken(self, layout: KvLayout) -> _Taken:
        """What a context of this layout takes."""
        computed = {device: self._beyond(device, layout.cells) for device in self.devices}
        if any(each.total > total_bytes(device) for device, each in computed.items()):
            return computed
        if not layout.unified:
            return self._measure("per_sequence", n_ctx=self._params.n_ctx)
        return self._measure("unified", n_ctx=self._params.n_ctx, kv_cells=layout.cells)

    def _beyond(self, device: str, cells: int) -> Allocation:
        (few, small), (more, large) = self._few, self._more
        if more == few:
            return large[device]
        times, left = divmod(cells - more, more - few)

        def grown(smaller: int, larger: int) -> int:
            return max(0, larger + (larger - smaller) * times + (larger - smaller) * left // (more - few))

        a, b = small[device], large[device]
        return Allocation(b.weights, grown(a.context, b.context), grown(a.compute, b.compute))

    def _measure(self, kind: Literal["per_sequence", "unified"], *, n_ctx: int, kv_cells: int = 0) -> _Taken:
        asked = structs.replace(self._params, n_ctx=n_ctx, kv_layout=kind, kv_cells=kv_cells)
        return dry_context(self._model, asked, seats=self._seats)


def _plan_vectors(model: Model, load: Load, room: _Room) -> MemoryPlan:
    texts, n_batch = vector_batch(load.context, n_ctx=context_length(load.context, model.native_context))
    taken = dry_vector_context(model, load.context, seats=texts, n_batch=n_batch)
    return structs.replace(_plan(model, taken, load, room), n_ctx=n_batch)


def _choose_layout(params: ContextParams, seats: int, dry_runs: _DryRuns, room: _Room) -> tuple[KvLayout, _Taken]:
    """The layout that fits on every device, and what it takes.

    Windows take another number of cells in a pool, so a pool is measured before it is chosen, and made smaller while it
    takes more than is free.
    """
    devices = {device: dry_runs.room(device, room.free_for_model(device)) for device in dry_runs.devices}
    layout = choose_layout(
        wanted=params.kv_layout, seats=seats, n_ctx=params.n_ctx, kv_cells=params.kv_cells, devices=devices.values()
    )
    taken = dry_runs.taken(layout)
    for _ in range(0 if params.kv_cells else _MOST_TRIES):
        excess = max(
            -(-(taken[name].total + _notes(name, layout.cells) - device.free_bytes) // max(1, device.cell_bytes))
            for name, device in devices.items()
        )
        smaller = smaller_pool(layout, excess_cells=excess) if excess > 0 else None
        if smaller is None:
            break
        layout, taken = smaller, dry_runs.taken(smaller)
    return layout, taken


def _plan(model: Model, taken: _Taken, load: Load, room: _Room, *, cells: int = 0) -> MemoryPlan:
    asked = load.context.gpu_layers
    has_gpu = any(device != CPU for device in taken)
    return MemoryPlan(
        devices=tuple(
            DeviceNeed(
                device=device,
                weights_bytes=each.weights,
                context_bytes=each.context,
                compute_bytes=each.compute,
                process_bytes=room.process(device) + _notes(device, cells),
                free_bytes=room.free(device),
            )
            for device, each in sorted(taken.items())
        ),
        layers=model.layers,
        gpu_layers=0 if not has_gpu else model.layers + 1 if asked < 0 else min(asked, model.layers + 1),
        n_ctx=0,
        native_context=model.native_context,
        seats=load.seats,
    )
