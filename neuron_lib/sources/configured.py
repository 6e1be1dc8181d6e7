"""The model store of a configuration: one function, so that `neuron ls` needs no harness to find the caches."""

from collections.abc import Mapping, Sequence

from neuron_lib.config import ModelEntry, StoreSettings
from neuron_lib.sources.store import ModelStore

__all__ = ("model_store",)


def model_store(
    settings: StoreSettings,
    *,
    models: Sequence[ModelEntry],
    environ: Mapping[str, str],
    ends_with_thread: bool = False,
) -> ModelStore:
    """The store that a harness with these settings loads from. `ends_with_thread`: see `LlamaCppHarness`."""
    return ModelStore(
        entries=models,
        sources=settings.sources,
        default_source=settings.default_source,
        local_roots=settings.local_roots,
        hf_cache=settings.hf_cache,
        download=settings.download,
        environ=environ,
        ends_with_thread=ends_with_thread,
    )
