"""The answer to `POST /models/estimate`: what a load would take on each device."""

from msgspec import Struct

from neuron_lib.types import DeviceNeed, MemoryPlan

__all__ = ("EstimateAnswer", "estimate_answer")


class _Device(Struct, frozen=True, kw_only=True):
    device: str
    fits: bool
    needed_bytes: int
    free_bytes: int
    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    process_bytes: int


class EstimateAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a model would be loaded now. A model that makes vectors has no keys that begin with `kv_`."""

    model_id: str
    fits: bool
    devices: tuple[_Device, ...]
    layers: int
    gpu_layers: int
    n_ctx: int
    native_context: int
    seats: int
    kv_layout: str = ""
    kv_cells: int = 0
    kv_type_k: str = ""
    kv_type_v: str = ""


def estimate_answer(plan: MemoryPlan, *, model_id: str) -> EstimateAnswer:
    """The answer about `model_id`, a public id."""
    return EstimateAnswer(
        model_id=model_id,
        fits=plan.fits,
        devices=tuple(map(_device, plan.devices)),
        layers=plan.layers,
        gpu_layers=plan.gpu_layers,
        n_ctx=plan.n_ctx,
        native_context=plan.native_context,
        seats=plan.seats,
        kv_layout=plan.kv_layout,
        kv_cells=plan.kv_cells,
        kv_type_k=plan.kv_type_k,
        kv_type_v=plan.kv_type_v,
    )


def _device(need: DeviceNeed) -> _Device:
    return _Device(
        device=need.device,
        fits=need.fits,
        needed_bytes=need.needed_bytes,
        free_bytes=need.free_bytes,
        weights_bytes=need.weights_bytes,
        context_bytes=need.context_bytes,
        compute_bytes=need.compute_bytes,
        process_bytes=need.process_bytes,
    )
