"""The model store of a configuration: one function, so that `neuron ls` needs no harness to find the caches."""

from collections.abc import Mapping

from neuron_lib.config import LlamaCppConfig, ModelEntry
from neuron_lib.sources.store import ModelStore

__all__ = ("model_store",)


def model_store(
    config: LlamaCppConfig,
    *,
    models: tuple[ModelEntry, ...],
    environ: Mapping[str, str],
    ends_with_thread: bool = False,
) -> ModelStore:
    """The store that a harness of this configuration loads from. `ends_with_thread`: see `LlamaCppHarness`."""
    return ModelStore(
        entries=models,
        sources=config.sources,
        default_source=config.default_source,
        local_roots=config.local_roots,
        hf_cache=config.hf_cache,
        download=config.download,
        environ=environ,
        ends_with_thread=ends_with_thread,
    )
