"""What a memory plan of an engine means for the host: its devices by the host's numbers, and the refusal. Pure."""

from collections.abc import Sequence

from msgspec import structs

from neuron_lib.errors import PreflightFailed
from neuron_lib.sizes import format_size
from neuron_lib.types import MemoryPlan

__all__ = ("does_not_fit", "on_host")


def on_host(plan: MemoryPlan, *, gpus: Sequence[int], rpc: Sequence[int] = ()) -> MemoryPlan:
    """The plan with the host's numbers of the devices. An engine sees only `gpus` and the devices `rpc` of RPC servers,
    and counts each kind from 0.
    """
    names = {f"gpu{seen}": f"gpu{index}" for seen, index in enumerate(gpus)}
    names |= {f"rpc{seen}": f"gpu{index}" for seen, index in enumerate(rpc)}
    return structs.replace(
        plan,
        devices=tuple(structs.replace(need, device=names.get(need.device, need.device)) for need in plan.devices),
    )


def does_not_fit(plan: MemoryPlan, *, model_id: str) -> PreflightFailed:
    """The refusal of a load, about the device that lacks most."""
    lacking = max(plan.devices, key=lambda need: need.needed_bytes - need.free_bytes)
    message = (
        f"{model_id} does not fit: it needs {format_size(lacking.needed_bytes)} on {lacking.device}, where "
        f"{format_size(lacking.free_bytes)} are free (weights {format_size(lacking.weights_bytes)}, {plan.seats} "
        f"sequences of {plan.n_ctx} tokens {format_size(lacking.context_bytes)}, buffers "
        f"{format_size(lacking.compute_bytes)}). A smaller quant, a shorter n_ctx, fewer requests at once "
        f"(admission.max_in_flight) or an unload makes room."
    )
    return PreflightFailed.of_memory(
        message,
        model_id=model_id,
        device=lacking.device,
        needed_bytes=lacking.needed_bytes,
        free_bytes=lacking.free_bytes,
    )
