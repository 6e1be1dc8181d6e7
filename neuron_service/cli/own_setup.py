"""What a command needs to make the harnesses of the configuration in its own process, without a service."""

from collections.abc import Mapping

from neuron_lib.backend import HarnessSetup
from neuron_lib.config import Config, store_settings
from neuron_lib.discovery.probe import discover
from neuron_lib.harness import Harness
from neuron_service.backends import BACKENDS, harness_tables
from neuron_service.capacity import gpu_memory_by_index

__all__ = ("own_harnesses", "own_setup")


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
        store=next(iter(store_settings(config).values()), None),
    )


def own_harnesses(config: Config, setup: HarnessSetup) -> list[tuple[Harness, tuple[str, ...]]]:
    """All harnesses of the configuration, each with its other names, in the order of the configuration."""
    names = [entry.name for entry in config.harnesses]
    return [(backend.make(table, setup), backend.aliases) for backend, table in harness_tables(config, names, BACKENDS)]
