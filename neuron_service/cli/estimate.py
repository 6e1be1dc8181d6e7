"""`neuron estimate`: how much memory a model would take on this host. Needs no running service, and loads nothing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import anyio
import msgspec

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError, LoadFailed, NeuronError
from neuron_lib.registry.harnesses import Harnesses
from neuron_lib.sizes import format_size
from neuron_lib.types import DeviceNeed, MemoryPlan, public_id
from neuron_lib.wire.estimate import estimate_answer
from neuron_service.capacity import capacity_bytes, host_memory_bytes
from neuron_service.cli.configuration import command_config
from neuron_service.cli.configured_spec import configured_spec
from neuron_service.cli.elsewhere import harness_facts
from neuron_service.cli.failures import report_failure
from neuron_service.cli.named_models import with_file
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.own_setup import own_harnesses, own_setup
from neuron_service.cli.screen import print_table, waiting

__all__ = ("run_estimate_command",)

_HEADINGS: Final = ("DEVICE", "WEIGHTS", "CONTEXT", "BUFFERS", "PROCESS", "NEEDED", "FREE", "")


def run_estimate_command(options: ConfigOptions, named: str, *, quant: str | None, as_json: bool) -> int:
    """Print the plan of a load. Returns the exit status: 0 if the model fits now, 1 if not."""
    try:
        config, environ = command_config(options, os.environ)
        config, named = with_file(config, named, folder=Path.cwd())
    except ConfigError as error:
        return report_failure(error)
    model_id = public_id(named)
    try:
        with waiting(f"estimating {model_id}"):
            plan = anyio.run(_estimate, config, environ, named, quant)
    except NeuronError as error:
        return report_failure(error)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(estimate_answer(plan, model_id=model_id))).decode())
    else:
        _show(plan, model_id)
    return 0 if plan.fits else 1


async def _estimate(config: Config, environ: Mapping[str, str], model_id: str, quant: str | None) -> MemoryPlan:
    """Ask the harness that would load the model."""
    facts = harness_facts(config, model_id)
    if facts is not None and facts.url is not None:
        text = f"{public_id(model_id)} takes no memory of this host: it is at {facts.url}, the server of {facts.name}"
        raise LoadFailed(text)
    setup = await own_setup(config, environ)
    limits = _limits(config, setup.gpu_memory_mb())
    setup = replace(setup, host_limit_bytes=lambda: limits.get("cpu"))
    harnesses = Harnesses()
    for harness, aliases in own_harnesses(config, setup):
        harnesses.register(harness, aliases=aliases)
    spec = configured_spec(config, model_id)
    plan = await harnesses.estimate(spec if quant is None else msgspec.structs.replace(spec, quant=quant))
    return plan.within(limits)


def _limits(config: Config, gpu_memory_mb: Sequence[int]) -> Mapping[str, int]:
    """What all models of the service may take together, if its loads make room for themselves."""
    if not config.residency.on_demand:
        return {}
    return capacity_bytes(host_memory_bytes(config.residency.memory_mb), gpu_memory_mb)


def _show(plan: MemoryPlan, model_id: str) -> None:
    sequences = f"{plan.seats} sequences of {plan.n_ctx} tokens"
    if plan.kv_layout == "unified":
        sequences = f"{plan.seats} sequences of up to {plan.n_ctx} tokens in {plan.kv_cells} cells together"
    layers = f"{min(plan.gpu_layers, plan.layers)} of {plan.layers} layers on GPUs"
    print(f"{model_id}: {sequences}, {layers}")
    print_table(
        _HEADINGS,
        [_row(need) for need in plan.devices],
        right=_HEADINGS,
        styles=[("", "good" if need.fits else "bad") for need in plan.devices],
    )


def _row(need: DeviceNeed) -> tuple[str, ...]:
    sizes = (need.weights_bytes, need.context_bytes, need.compute_bytes, need.process_bytes)
    return (
        need.device,
        *map(format_size, (*sizes, need.needed_bytes, need.free_bytes)),
        "fits" if need.fits else "does not fit",
    )
