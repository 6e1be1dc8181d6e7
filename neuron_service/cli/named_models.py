"""The configuration with the models that stand on the command line. Pure: looks at no disk and asks no hub."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from neuron_lib.config import Config, ModelEntry, StoreSettings
from neuron_lib.errors import ConfigError, LoadFailed
from neuron_lib.sources.named_model import NamedModel, find_named_model
from neuron_lib.types import ModelSpec, public_id

__all__ = ("named_model", "with_models")


def named_model(config: Config, text: str, *, folder: Path) -> NamedModel:
    """The model that `text` means beside this configuration. Raises `ConfigError`."""
    try:
        return find_named_model(text, entries=config.models, aliases=config.http.model_aliases, folder=folder)
    except LoadFailed as failure:
        raise ConfigError(str(failure)) from failure


def with_models(config: Config, texts: Sequence[str], *, folder: Path) -> Config:
    """The configuration with these models in place of its `default_models`; unchanged where there are none.

    A model that the file has among its `default_models` keeps its quant and its devices. The folder of each named file
    becomes one of the `local_roots`. Relative paths begin at `folder`. Raises `ConfigError`.
    """
    if not texts:
        return config
    models = list(dict.fromkeys(named_model(config, text, folder=folder) for text in texts))
    entries = tuple(model.entry for model in models if model.entry is not None)
    _require_different_ids(config.models, entries)
    known = {public_id(spec.model_id): spec for spec in config.default_models}
    harness = config.harnesses[0].name if len(config.harnesses) == 1 else None
    roots = tuple(dict.fromkeys(Path(entry.path).parent for entry in entries if entry.path is not None))
    tables = {
        name: replace(table, local_roots=(*table.local_roots, *roots))
        if isinstance(table, StoreSettings) and table.local_roots is not None
        else table
        for name, table in config.harness.items()
    }
    return replace(
        config,
        models=(*config.models, *entries),
        harness=tables,
        default_models=tuple(
            known.get(public_id(model.model_id), ModelSpec(model_id=model.model_id, harness=harness))
            for model in models
        ),
    )


def _require_different_ids(configured: Iterable[ModelEntry], named: Iterable[ModelEntry]) -> None:
    places: dict[str, object] = {entry.id: "a [[models]] entry of the configuration" for entry in configured}
    for entry in named:
        if (other := places.setdefault(entry.id, entry.path)) != entry.path:
            raise ConfigError(
                f"{other} and {entry.path} would both be the model {entry.id}: give the file an id of its own in"
                " [[models]] of a configuration"
            )
