"""`neuron pull`, `ls` and `rm`: models on this machine's disk, without a running service.

Prints and asks. `inventory` decides which models are here and which may be deleted. The store knows their sources.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import click
import msgspec
from msgspec import Struct, to_builtins

from neuron_lib.config import Config, ModelEntry, Revision, StoreSettings, store_settings
from neuron_lib.errors import ConfigError, LoadFailed, NeuronError
from neuron_lib.sizes import format_size
from neuron_lib.sources import LocalModel, ModelStore
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.formats import GGUF
from neuron_lib.sources.hub_cache import (
    forget_empty,
    forget_snapshot_file,
    list_partials,
    list_repositories,
    repository_folder,
    sweep_partials,
)
from neuron_lib.sources.inventory import (
    Claim,
    ModelHere,
    content_bytes,
    list_claims,
    list_models_here,
    plan_removal,
    require_unloaded,
    shown_sources,
)
from neuron_lib.sources.repository import HubRepository
from neuron_lib.sources.survey import find_files, find_repositories
from neuron_lib.types import ModelSpec, public_id, take_apart
from neuron_service.cli.configuration import command_config
from neuron_service.cli.elsewhere import harness_facts, why_nothing_to_fetch
from neuron_service.cli.failures import report_failure
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.progress_line import ProgressLine
from neuron_service.cli.running_service import ServiceSilent, loaded_ids
from neuron_service.cli.screen import print_json, print_table, shown
from neuron_service.cli.terminal import INTERRUPTED, complain

__all__ = (
    "Deleted",
    "Unfinished",
    "list_models",
    "pull",
    "pull_models",
    "remove",
    "remove_models",
    "remove_unfinished",
    "show",
)

_HEADINGS: Final = ("MODEL", "QUANT", "SIZE", "FILES", "COMMIT", "VERIFIED", "USED BY")


class Unfinished(Struct, frozen=True, kw_only=True):
    """A download that was begun and not finished."""

    path: str
    size_bytes: int
    age_secs: int


class Deleted(Struct, frozen=True, kw_only=True):
    """A file that `neuron rm` has deleted. `commit` is None for an unfinished download.

    Content that another file name still uses is still there.
    """

    path: str
    size_bytes: int
    commit: str | None = None


def pull_models(
    options: ConfigOptions, ids: Sequence[str], *, quant: str | None, revision: str | None, as_json: bool
) -> int:
    """Run `neuron pull`. Returns the exit status. Raises `click.UsageError` for a revision that cannot be one."""
    wanted = _revision(revision)
    return _with_config(
        options,
        lambda config, environ: pull(config, environ, ids, quant=quant, revision=wanted, as_json=as_json),
    )


def list_models(options: ConfigOptions, *, as_json: bool) -> int:
    """Run `neuron ls`. Returns the exit status."""
    return _with_config(options, lambda config, environ: show(config, environ, as_json=as_json))


def remove_models(
    options: ConfigOptions, model_id: str | None, *, quant: str | None, confirmed: bool, as_json: bool
) -> int:
    """Run `neuron rm`: delete a model, or without `model_id` the unfinished downloads. Returns the exit status."""
    if model_id is None:
        return _with_config(options, lambda config, environ: remove_unfinished(config, environ, as_json=as_json))
    return _with_config(
        options,
        lambda config, environ: remove(config, environ, model_id, quant=quant, confirmed=confirmed, as_json=as_json),
    )


def _with_config(options: ConfigOptions, act: Callable[[Config, Mapping[str, str]], int]) -> int:
    """Do something with the configuration. Returns the exit status, and says what is wrong with the configuration."""
    try:
        config, environ = command_config(options, os.environ)
    except ConfigError as error:
        return report_failure(error)
    if not store_settings(config):
        complain("no backend of this service fetches models")
        return os.EX_CONFIG
    return act(config, environ)


def _revision(text: str | None) -> str | None:
    """`text` if it can be a branch, a tag or a commit. Raises `click.UsageError`."""
    try:
        return msgspec.convert(text, Revision | None)
    except msgspec.ValidationError:
        raise click.UsageError(f"--revision: {text!r} is no branch, tag or commit") from None


# ------------------------------------------------------------------------------------------------------------- pull


def pull(
    config: Config,
    environ: Mapping[str, str],
    ids: Sequence[str],
    *,
    quant: str | None,
    revision: str | None = None,
    as_json: bool = False,
) -> int:
    """Fetch models as a load does, but from the newest commit, and print their files. Returns the exit status.

    The first model that fails ends the command. `revision` overrides that of a `[[models]]` entry.
    """
    for model_id in ids:
        spec = ModelSpec(model_id=model_id, harness=next(iter(store_settings(config))), quant=quant)
        try:
            harness = harness_facts(config, model_id)
            if harness is not None and (reason := why_nothing_to_fetch(harness, public_id(model_id))):
                raise LoadFailed(reason)
            models = config.models if revision is None else _at_revision(config.models, model_id, revision)
            store = model_store(_settings(config), models=models, environ=environ)
            formats = (GGUF,) if harness is None else harness.formats
            with ProgressLine(sys.stderr, label=public_id(model_id)) as line:
                local = anyio.run(_fetch, store, spec, line, formats)
        except KeyboardInterrupt:
            complain("interrupted; what was fetched is kept, and the next pull goes on there")
            return INTERRUPTED
        except NeuronError as error:
            return report_failure(error)
        if as_json:
            print(json.dumps({"id": public_id(model_id), "path": str(local.path)}), flush=True)
        else:
            print(local.path)
    return 0


async def _fetch(store: ModelStore, spec: ModelSpec, line: ProgressLine, formats: tuple[str, ...]) -> LocalModel:
    return await store.fetch(spec, report=line.report, refresh=True, formats=formats)


def _at_revision(models: Sequence[ModelEntry], model_id: str, revision: str) -> tuple[ModelEntry, ...]:
    """The entries, with one for `model_id` that has this revision. Raises `LoadFailed`."""
    ids = (public_id(model_id), take_apart(model_id).path)
    entry = next((each for id_ in ids for each in models if each.id == id_), ModelEntry(id=ids[0]))
    id_ = entry.id
    try:
        pinned = msgspec.structs.replace(entry, revision=revision)
    except ValueError as error:  # its place has no revisions
        raise LoadFailed(str(error)) from error
    return (*(each for each in models if each.id != id_), pinned)


# --------------------------------------------------------------------------------------------------------------- ls


def show(config: Config, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print the models on this machine. Returns the exit status."""
    store = _store(config, environ)
    try:
        loaded = loaded_ids(config, environ)
    except ServiceSilent as silence:
        complain(f"{silence}; what is loaded is not known")
        loaded = frozenset()
    settings = _settings(config)
    sources = shown_sources(store.cache_dirs, default_source=settings.default_source)
    models = list_models_here(
        find_files(config.models, local_roots=settings.local_roots),
        (found for cache, source in sources.items() for found in find_repositories(cache, source=source)),
        _claims(store, entries=config.models, defaults=config.default_models, loaded=loaded),
    )
    unfinished = [
        Unfinished(path=str(partial.path), size_bytes=partial.size, age_secs=max(0, int(partial.age_s)))
        for cache in dict.fromkeys(store.cache_dirs.values())
        for partial in list_partials(cache, now_s=time.time())
    ]
    if as_json:
        print(json.dumps({"models": to_builtins(models), "unfinished": to_builtins(unfinished)}, indent=2))
        return 0
    if models:
        print_table(_HEADINGS, [_row(model) for model in models])
    else:
        for cache, source in sources.items():
            print(f"no models in {cache} (the cache of {source})")
    for partial in unfinished:
        size = format_size(partial.size_bytes)
        print(shown(f"unfinished: {size}, last written {partial.age_secs} s ago: {partial.path}"))
    for model in models:
        if model.missing is not None:
            print(shown(f"incomplete: {model.id} has no {model.missing}"))
    return 0


def _row(model: ModelHere) -> tuple[str, ...]:
    return (
        model.id,
        model.quant or "-",
        format_size(model.size_bytes) if model.files else "missing",
        str(len(model.files)),
        "-" if model.commit is None else model.commit[:12],
        "-" if model.is_verified is None else "yes" if model.is_verified else "no",
        ", ".join(model.used_by) or "-",
    )


# --------------------------------------------------------------------------------------------------------------- rm


def remove(
    config: Config,
    environ: Mapping[str, str],
    model_id: str,
    *,
    quant: str | None,
    confirmed: bool,
    as_json: bool = False,
    ask: Callable[[str], str] = input,
) -> int:
    """Delete a model from its cache, unless the service has it loaded. Returns the exit status.

    Without `quant` the quant of the id counts, or that of its `[[models]]` entry. If there is none, all quants are
    deleted.
    """
    store = _store(config, environ)
    try:
        quant = store.quant(model_id, quant)
        repository = store.repository(model_id)
        if repository is None:
            raise LoadFailed(f"{model_id} does not come from a hub: its file is not ours to delete")
        doomed = plan_removal(repository, list(list_repositories(repository.cache_dir)), quant=quant)
        require_unloaded(repository, _claims(store, loaded=loaded_ids(config, environ)))
        gone = [Deleted(path=each.file.path, size_bytes=each.file.size or 0, commit=each.commit) for each in doomed]
        if not as_json:
            for each in gone:
                print(f"{format_size(each.size_bytes):>8}  {shown(each.path)} (commit {str(each.commit)[:12]})")
        if not confirmed:
            if not sys.stdin.isatty():
                complain("nothing deleted; without a terminal to ask on, say --yes")
                return os.EX_USAGE
            if not _agreed(ask, f"Delete {format_size(content_bytes(doomed))}? [y/N] "):
                return 1
            # The model may have been loaded while we waited for the answer.
            require_unloaded(repository, _claims(store, loaded=loaded_ids(config, environ)))
        folder = repository_folder(repository)
        freed = sum(forget_snapshot_file(folder, each.commit, each.file) for each in doomed)
    except NeuronError as error:
        return report_failure(error)
    except ServiceSilent as silence:
        complain(f"{silence}; it may have the model loaded, so nothing is deleted")
        return 1
    except OSError as error:
        complain(f"cannot delete {error.filename}: {error.strerror or error}")
        return 1
    forget_empty(folder)
    _say_deleted(gone, freed, as_json=as_json)
    return 0


def remove_unfinished(config: Config, environ: Mapping[str, str], *, as_json: bool = False) -> int:
    """Delete every unfinished download that no process writes. Returns the exit status."""
    gone: list[Deleted] = []
    for cache in dict.fromkeys(_store(config, environ).cache_dirs.values()):
        for partial in sweep_partials(cache, now_s=time.time(), older_than_s=0):
            gone.append(Deleted(path=str(partial.path), size_bytes=partial.size))
            if not as_json:
                print(f"{format_size(partial.size):>8}  {shown(str(partial.path))}")
    _say_deleted(gone, sum(each.size_bytes for each in gone), as_json=as_json)
    return 0


def _say_deleted(gone: Sequence[Deleted], freed: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"deleted": to_builtins(gone), "freed_bytes": freed})
    else:
        print(f"deleted; {format_size(freed)} are free again")


def _agreed(ask: Callable[[str], str], question: str) -> bool:
    with contextlib.suppress(EOFError):
        return ask(question).strip().lower() in {"y", "yes"}
    return False


# ----------------------------------------------------------------------------------------------------------- common


def _settings(config: Config) -> StoreSettings:
    """The settings of the store that the commands work on: those of the first backend that fetches models."""
    return next(iter(store_settings(config).values()))


def _store(config: Config, environ: Mapping[str, str]) -> ModelStore:
    return model_store(_settings(config), models=config.models, environ=environ)


def _claims(
    store: ModelStore,
    *,
    entries: Iterable[ModelEntry] = (),
    defaults: Iterable[ModelSpec] = (),
    loaded: Iterable[str],
) -> list[Claim]:
    return list_claims(entries, defaults, loaded, folder_of=lambda model_id: _folder(store, model_id))


def _folder(store: ModelStore, model_id: str) -> Path | None:
    """The folder of an id in the cache. None for a model from elsewhere, and for an id that names no model."""
    repository: HubRepository | None = None
    with contextlib.suppress(LoadFailed):
        repository = store.repository(model_id)
    return None if repository is None else repository_folder(repository)
