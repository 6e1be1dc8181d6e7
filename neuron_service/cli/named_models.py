"""The configuration with the models that stand on the command line. Looks for their files, and asks no hub."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.config import Config, ModelEntry, StoreSettings
from neuron_lib.errors import LoadFailed
from neuron_lib.sources.local import find_local_model
from neuron_lib.sources.named_model import NamedModel, find_named_model
from neuron_service.cli.configured_spec import configured_spec
from neuron_service.cli.no_such_model import NoSuchModel

__all__ = ("files_of", "named_model", "with_file", "with_models")


def named_model(config: Config, text: str, *, folder: Path) -> NamedModel:
    """The model that `text` means beside this configuration. Raises `NoSuchModel`."""
    try:
        return find_named_model(text, entries=config.models, aliases=config.http.model_aliases, folder=folder)
    except LoadFailed as failure:
        raise NoSuchModel(str(failure)) from failure


def files_of(model: NamedModel) -> tuple[Path, ...]:
    """The file that a model is named by, and its other parts. Empty for a model that is no file.

    Raises `NoSuchModel` for a file that is not there. Blocking: looks at the disk.
    """
    if model.entry is None:
        return ()
    try:
        return find_local_model(str(model.entry.path), roots=None, model_id=model.model_id)
    except LoadFailed as failure:
        raise NoSuchModel(str(failure), exit_status=os.EX_NOINPUT) from failure


def with_models(config: Config, texts: Sequence[str], *, folder: Path) -> Config:
    """The configuration with these models in place of its `default_models`; unchanged where there are none.

    A model that the file has among its `default_models` keeps its quant and its devices. The named files, and no others
    of their folders, may be read beside `local_roots`. Relative paths begin at `folder`. Raises `NoSuchModel`.
    Blocking: looks at the disk.
    """
    if not texts:
        return config
    models = list(dict.fromkeys(named_model(config, text, folder=folder) for text in texts))
    entries = tuple(model.entry for model in models if model.entry is not None)
    _require_different_ids(config.models, entries)
    files = [Path(os.path.realpath(path)) for model in models for path in files_of(model)]
    return replace(
        config,
        models=(*config.models, *entries),
        harness={name: _with_files(table, files) for name, table in config.harness.items()},
        default_models=tuple(configured_spec(config, model.model_id) for model in models),
    )


def with_file(config: Config, text: str, *, folder: Path) -> tuple[Config, str]:
    """The configuration in which the model of a text can be found, and its id. Any text that is no file stays as it is.

    Raises `NoSuchModel` for a file that is not there. Blocking: looks at the disk.
    """
    try:
        named = named_model(config, text, folder=folder)
    except NoSuchModel:
        return config, text  # whoever looks the id up says what is wrong with it
    return (config if named.entry is None else with_models(config, [text], folder=folder)), named.model_id


def _with_files(table: Any, files: Sequence[Path]) -> Any:
    """The table of a backend, with these files among those that may be read."""
    if isinstance(table, StoreSettings) and isinstance(table, Struct) and table.local_roots is not None:
        return replace(table, local_roots=(*table.local_roots, *files))
    return table


def _require_different_ids(configured: Iterable[ModelEntry], named: Iterable[ModelEntry]) -> None:
    places: dict[str, object] = {entry.id: "a [[models]] entry of the configuration" for entry in configured}
    for entry in named:
        if (other := places.setdefault(entry.id, entry.path)) != entry.path:
            raise NoSuchModel(
                f"{other} and {entry.path} would both be the model {entry.id}: give the file an id of its own in"
                " [[models]] of a configuration"
            )
