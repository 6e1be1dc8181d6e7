"""The configuration with the models that stand on the command line. Asks no hub. `require_file` looks at the disk."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from neuron_lib.config import Config, ModelEntry, StoreSettings
from neuron_lib.errors import ConfigError, LoadFailed
from neuron_lib.sources.local import find_local_model
from neuron_lib.sources.named_model import NamedModel, find_named_model
from neuron_lib.types import ModelSpec, public_id

__all__ = ("NoSuchModel", "named_model", "require_file", "with_models")


class NoSuchModel(ConfigError):
    """What stands on the command line means no model. `exit_status` is one of sysexits.h."""

    def __init__(self, message: str, *, exit_status: int = os.EX_USAGE) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def named_model(config: Config, text: str, *, folder: Path) -> NamedModel:
    """The model that `text` means beside this configuration. Raises `NoSuchModel`."""
    try:
        return find_named_model(text, entries=config.models, aliases=config.http.model_aliases, folder=folder)
    except LoadFailed as failure:
        raise NoSuchModel(str(failure)) from failure


def require_file(model: NamedModel) -> None:
    """Raises `NoSuchModel` for a file that is not there, or that lacks a part. Any other model is fine."""
    if model.entry is None:
        return
    try:
        find_local_model(str(model.entry.path), roots=None, model_id=model.model_id)
    except LoadFailed as failure:
        raise NoSuchModel(str(failure), exit_status=os.EX_NOINPUT) from failure


def with_models(config: Config, texts: Sequence[str], *, folder: Path) -> Config:
    """The configuration with these models in place of its `default_models`; unchanged where there are none.

    A model that the file has among its `default_models` keeps its quant and its devices. The folder of each named file
    becomes one of the `local_roots`. Relative paths begin at `folder`. Raises `NoSuchModel`.
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
            raise NoSuchModel(
                f"{other} and {entry.path} would both be the model {entry.id}: give the file an id of its own in"
                " [[models]] of a configuration"
            )
