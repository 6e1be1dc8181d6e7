"""What a command gives to a harness that it makes in its own process, without a service."""

from collections.abc import Mapping

from neuron_lib.backend import HarnessSetup
from neuron_lib.config import Config
from neuron_lib.discovery.probe import discover
from neuron_service.capacity import gpu_memory_by_index

__all__ = ("own_setup",)


async def own_setup(config: Config, environ: Mapping[str, str]) -> HarnessSetup:
    """The models of the configuration, and the GPUs of this host, which are looked for now."""
    discovery = await discover(harnesses=(), max_prompt_tokens=config.max_prompt_tokens)
    gpu_memory_mb = gpu_memory_by_index(discovery.devices)
    return HarnessSetup(
        models=config.models,
        environ=environ,
        gpu_memory_mb=lambda: gpu_memory_mb,
        max_prompt_tokens=config.max_prompt_tokens,
        ends_with_thread=False,
    )
