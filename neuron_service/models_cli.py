"""`neuron pull`, `ls` and `rm`: models on this machine's disk, without a running service.

Decides what is shown and what is refused. The store and the cache know where files are and which may be deleted.
"""

import contextlib
import http.client
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self, TextIO

import anyio
import msgspec
from msgspec import Struct, to_builtins

from neuron_lib.config import Config, ModelEntry
from neuron_lib.errors import LoadFailed, NeuronError, PreflightFailed, SourceUnavailable, cause_chain
from neuron_lib.registry.progress import ProgressLog, describe
from neuron_lib.sizes import format_size
from neuron_lib.sources import LocalModel, ModelStore
from neuron_lib.sources.configured import model_store
from neuron_lib.sources.hub_cache import (
    forget_empty,
    forget_snapshot_file,
    is_verified,
    list_partials,
    list_repositories,
    list_snapshots,
    repository_folder,
    sweep_partials,
)
from neuron_lib.sources.local import find_local_file
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.repository import HubRepository, Listing, RepoFile
from neuron_lib.sources.selection import Selection, list_models, quant_of, select_gguf
from neuron_lib.types import LoadProgress, ModelSpec, names_model, public_id, take_apart

__all__ = (
    "ModelHere",
    "ProgressLine",
    "Unfinished",
    "list_models_here",
    "pull",
    "remove",
    "remove_unfinished",
    "render_bar",
    "show",
)

_REDRAW_S: Final = 0.1
_DAEMON_LIMIT_S: Final = 2.0
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40
_MOST_NAMED: Final = 12


class ModelHere(Struct, frozen=True, kw_only=True):
    """One model on this machine: a GGUF, or the parts of a split one.

    `used_by` has the words `default` and `loaded`, and the ids of `[[models]]` entries that come from its repository. A
    model from a `path` or a `package` has no `commit` and is not hashed. `missing` is the part or the file that is not
    there. Without any file `size_bytes` is 0.
    """

    id: str
    quant: str | None
    size_bytes: int
    files: tuple[str, ...]
    commit: str | None
    is_verified: bool | None
    missing: str | None
    used_by: tuple[str, ...]


class Unfinished(Struct, frozen=True, kw_only=True):
    """A download that was begun and not finished."""

    path: str
    size_bytes: int
    age_secs: int


class DaemonSilent(Exception):
    """A program listens at the service's address and does not say which models it has loaded."""


class _Resident(Struct, frozen=True):
    id: str


class _Load(Struct, frozen=True):
    model_id: str


class _Health(Struct, frozen=True):
    """The part of `GET /health` that names the models in use."""

    models: tuple[_Resident, ...]
    loading: tuple[_Load, ...] = ()


# ------------------------------------------------------------------------------------------------------------- pull


def pull(
    config: Config, environ: Mapping[str, str], ids: Sequence[str], *, quant: str | None, revision: str | None = None
) -> int:
    """Fetch models as a load does, but from the newest commit. Returns the exit status.

    The first model that fails ends the command. `revision` overrides that of a `[[models]]` entry.
    """
    for model_id in ids:
        spec = ModelSpec(model_id=model_id, harness="llamacpp", quant=quant)
        try:
            models = config.models if revision is None else _at_revision(config.models, model_id, revision)
            store = model_store(config.harness.llamacpp, models=models, environ=environ)
            with ProgressLine(sys.stderr, label=public_id(model_id)) as line:
                local = anyio.run(_fetch, store, spec, line)
        except KeyboardInterrupt:
            print("neuron: interrupted; what was fetched is kept, and the next pull goes on there", file=sys.stderr)
            return 130
        except SourceUnavailable as failure:
            return _say(failure, os.EX_TEMPFAIL)
        except NeuronError as failure:
            return _say(failure, 1)
        print(local.path)
    return 0


async def _fetch(store: ModelStore, spec: ModelSpec, line: "ProgressLine") -> LocalModel:
    return await store.fetch(spec, report=line.report, refresh=True)


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


class ProgressLine:
    """Shows the progress of a download: on a terminal one line that is redrawn, elsewhere a line now and then."""

    def __init__(self, stream: TextIO, *, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._label = label
        self._clock = clock
        self._log = ProgressLog()
        self._drawn_s = float("-inf")

    def __enter__(self) -> Self:
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._make_way)
        return self

    def __exit__(self, *_: object) -> None:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._make_way)
        self._clear()

    def _make_way(self, _record: logging.LogRecord) -> bool:
        """Clear the bar, so that a log record begins on a line of its own. The bar is drawn again below it."""
        self._clear()
        self._drawn_s = self._clock()
        return True

    def _clear(self) -> None:
        if self._stream.isatty():
            self._write("\r\033[K")

    def report(self, progress: LoadProgress) -> None:
        """Show the progress, unless something was shown a moment ago."""
        now_s = self._clock()
        if not self._stream.isatty():
            if self._log.line(progress, now_s=now_s) is not None:
                self._write(f"{self._label}: {describe(progress)}\n")
        elif now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            self._write(f"\r\033[K{render_bar(self._label, progress, width=shutil.get_terminal_size().columns)}")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a closed terminal is no error
            self._stream.write(text)
            self._stream.flush()


def render_bar(label: str, progress: LoadProgress, *, width: int) -> str:
    """`label  ████░░░░  downloading 42 %, …` in at most `width - 1` characters. Parts without room are left out."""
    words = describe(progress)
    room = width - 1 - len(label) - len(words) - 4
    bar = ""
    if progress.fraction is not None and room >= _SHORTEST_BAR:
        length = min(room, _LONGEST_BAR)
        filled = int(length * progress.fraction)
        bar = "█" * filled + "░" * (length - filled) + "  "
    return f"{label}  {bar}{words}"[: max(0, width - 1)]


# --------------------------------------------------------------------------------------------------------------- ls


def show(config: Config, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Print the models on this machine. Returns the exit status."""
    store = _store(config, environ)
    try:
        loaded = _loaded_ids(config)
    except DaemonSilent as silence:
        print(f"neuron: {silence}; what is loaded is not known", file=sys.stderr)
        loaded = frozenset()
    models = list_models_here(store, config, loaded=loaded)
    unfinished = [
        Unfinished(path=str(partial.path), size_bytes=partial.size, age_secs=max(0, int(partial.age_s)))
        for cache in dict.fromkeys(store.cache_dirs.values())
        for partial in list_partials(cache, now_s=time.time())
    ]
    if as_json:
        print(json.dumps({"models": to_builtins(models), "unfinished": to_builtins(unfinished)}, indent=2))
        return 0
    if models:
        _print_table([("MODEL", "QUANT", "SIZE", "FILES", "COMMIT", "VERIFIED", "USED BY"), *map(_row, models)])
    else:
        for cache, scheme in _caches(store, config.harness.llamacpp.default_source).items():
            print(f"no models in {cache} (the cache of {scheme})")
    for partial in unfinished:
        print(f"unfinished: {format_size(partial.size_bytes)}, last written {partial.age_secs} s ago: {partial.path}")
    for model in models:
        if model.missing is not None:
            print(f"incomplete: {model.id} has no {model.missing}")
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


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def list_models_here(store: ModelStore, config: Config, *, loaded: frozenset[str]) -> list[ModelHere]:
    """Every GGUF model in the caches of the configured sources, and those of the entries that need no hub."""
    claims = _claims(config, loaded)
    found = [
        _local_model(entry, config.harness.llamacpp.local_roots, claims)
        for entry in config.models
        if entry.path is not None or entry.package is not None
    ]
    users = _users(store, claims)
    for cache, scheme in _caches(store, config.harness.llamacpp.default_source).items():
        for repository in list_repositories(cache):
            found += [
                ModelHere(
                    id=f"{scheme}:{repository.repo_id}",
                    quant=model.quant,
                    size_bytes=sum(file.size or 0 for file in model.files),
                    files=tuple(file.path for file in model.files),
                    commit=listing.commit,
                    is_verified=all(is_verified(repository.folder, file) for file in model.files),
                    missing=model.missing,
                    used_by=users.get(repository.folder, ()),
                )
                for listing in repository.listings
                for model in list_models(listing.files)
            ]
    return found


def _caches(store: ModelStore, default_source: str) -> dict[Path, str]:
    """Each cache with the source under which it is shown. If several sources share a cache, the default source is
    shown.
    """
    caches: dict[Path, str] = {}
    for scheme in sorted(store.cache_dirs, key=lambda scheme: scheme != default_source):
        caches.setdefault(store.cache_dirs[scheme], scheme)
    return caches


def _local_model(entry: ModelEntry, roots: Sequence[Path], claims: Sequence[tuple[str, str]]) -> ModelHere:
    place, size_bytes, missing = str(entry.path or entry.package), 0, None
    try:
        if entry.package is not None:
            path = find_package_file(entry.package, model_id=entry.id)
        else:
            path = find_local_file(place, roots=roots, model_id=entry.id)
        size_bytes = path.stat().st_size
    except (PreflightFailed, SourceUnavailable, OSError):
        missing = place
    return ModelHere(
        id=entry.id,
        quant=quant_of(place.rpartition("/")[2]),
        size_bytes=size_bytes,
        files=() if missing else (place,),
        commit=None,
        is_verified=None,
        missing=missing,
        used_by=tuple(
            dict.fromkeys(word for id_, word in claims if names_model(entry.id, id_, quant=None) and word != id_)
        ),
    )


def _claims(config: Config, loaded: frozenset[str]) -> list[tuple[str, str]]:
    """Every id in use, with the word for its user."""
    return [
        *((entry.id, entry.id) for entry in config.models),
        *((spec.model_id, "default") for spec in config.default_models),
        *((model_id, "loaded") for model_id in sorted(loaded)),
    ]


def _users(store: ModelStore, claims: Sequence[tuple[str, str]]) -> dict[Path, tuple[str, ...]]:
    """For the folder of each repository: the ids that would be loaded from it, or have been."""
    users: dict[Path, dict[str, None]] = {}
    for model_id, word in claims:
        if (repository := _repository(store, model_id)) is not None:
            users.setdefault(repository_folder(repository), {})[word] = None
    return {folder: tuple(words) for folder, words in users.items()}


# --------------------------------------------------------------------------------------------------------------- rm


def remove(
    config: Config,
    environ: Mapping[str, str],
    model_id: str,
    *,
    quant: str | None,
    confirmed: bool,
    ask: Callable[[str], str] = input,
) -> int:
    """Delete a model from its cache, unless the service has it loaded. Returns the exit status.

    Without `quant` the quant of the id counts, or that of its `[[models]]` entry. If there is none, all quants are
    deleted.
    """
    store = _store(config, environ)
    try:
        quant = store.quant(model_id, quant)
        repository, doomed = _plan_removal(store, model_id, quant)
        _refuse_loaded(store, config, repository)
        folder = repository_folder(repository)
        for commit, file in doomed:
            print(f"{format_size(file.size or 0):>8}  {file.path} (commit {commit[:12]})")
        if not confirmed:
            if not sys.stdin.isatty():
                print("neuron: nothing deleted; without a terminal to ask on, say --yes", file=sys.stderr)
                return os.EX_USAGE
            if not _agreed(ask, f"Delete {format_size(_content_bytes(doomed))}? [y/N] "):
                return 1
            _refuse_loaded(store, config, repository)  # it may have been loaded since the question
        freed = sum(forget_snapshot_file(folder, commit, file) for commit, file in doomed)
    except NeuronError as failure:
        return _say(failure, 1)
    except DaemonSilent as silence:
        print(f"neuron: {silence}; it may have the model loaded, so nothing is deleted", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"neuron: cannot delete {error.filename}: {error.strerror or error}", file=sys.stderr)
        return 1
    forget_empty(folder)
    print(f"deleted; {format_size(freed)} are free again")
    return 0


def remove_unfinished(config: Config, environ: Mapping[str, str]) -> int:
    """Delete every unfinished download that no process writes. Returns the exit status."""
    freed = 0
    for cache in dict.fromkeys(_store(config, environ).cache_dirs.values()):
        for partial in sweep_partials(cache, now_s=time.time(), older_than_s=0):
            print(f"{format_size(partial.size):>8}  {partial.path}")
            freed += partial.size
    print(f"deleted; {format_size(freed)} are free again")
    return 0


def _plan_removal(
    store: ModelStore, model_id: str, quant: str | None
) -> tuple[HubRepository, list[tuple[str, RepoFile]]]:
    """The cache, and the files of each commit, that are to be deleted. Raises kinds of `LoadFailed`."""
    repository = store.repository(model_id)
    if repository is None:
        raise LoadFailed(f"{model_id} does not come from a hub: its file is not ours to delete")
    folder = repository_folder(repository)
    cached = list_repositories(repository.cache_dir)
    doomed: list[tuple[str, RepoFile]] = []
    failure = _not_cached(repository, [each.repo_id for each in cached if each.listings])
    for listing in list_snapshots(folder):
        try:
            models = _matching(listing, quant, repository.model_id)
        except PreflightFailed as refusal:  # another commit may have the file
            failure = refusal
        else:
            doomed += [(listing.commit, file) for model in models for file in model.files]
    if not doomed:
        raise failure
    return repository, doomed


def _matching(listing: Listing, quant: str | None, model_id: str) -> tuple[Selection, ...]:
    if quant:
        return (select_gguf(listing.files, quant=quant, model_id=model_id),)
    return list_models(listing.files)


def _not_cached(repository: HubRepository, here: Sequence[str]) -> LoadFailed:
    more = f" and {len(here) - _MOST_NAMED} more" if len(here) > _MOST_NAMED else ""
    there = f"there is {', '.join(here[:_MOST_NAMED])}{more}" if here else "there is no model in it"
    return LoadFailed(f"{repository.model_id} is not in {repository.cache_dir}; {there}")


def _refuse_loaded(store: ModelStore, config: Config, repository: HubRepository) -> None:
    """Raises `LoadFailed` if the service has a model of this repository loaded, and `DaemonSilent`."""
    for user in sorted(_loaded_ids(config)):
        other = _repository(store, user)
        if other is not None and repository_folder(other) == repository_folder(repository):
            raise LoadFailed(f"{user} is loaded from {repository.model_id}: unload it first")


def _content_bytes(files: Sequence[tuple[str, RepoFile]]) -> int:
    """The size of the files in bytes. Content that several commits share counts once."""
    return sum({file.blob or (commit, file.path): file.size or 0 for commit, file in files}.values())


def _agreed(ask: Callable[[str], str], question: str) -> bool:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        return ask(question).strip().lower() in {"y", "yes"}
    return False


# ----------------------------------------------------------------------------------------------------------- common


def _store(config: Config, environ: Mapping[str, str]) -> ModelStore:
    return model_store(config.harness.llamacpp, models=config.models, environ=environ)


def _repository(store: ModelStore, model_id: str) -> HubRepository | None:
    """The repository that an id means. None for an id that means something else or nothing here."""
    with contextlib.suppress(LoadFailed):
        return store.repository(model_id)
    return None


def _loaded_ids(config: Config) -> frozenset[str]:
    """The ids that the service of this configuration has loaded or is loading. Empty if no service runs.

    Raises `DaemonSilent`.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # noqa: S104 - compared, not bound
    # Not urllib, because it uses proxies and follows redirects. This question is for that address alone.
    connection = http.client.HTTPConnection(host, config.port, timeout=_DAEMON_LIMIT_S)
    try:
        with contextlib.closing(connection):
            connection.request("GET", "/health")
            health = msgspec.json.decode(connection.getresponse().read(), type=_Health)
    except ConnectionRefusedError:
        return frozenset()
    except (OSError, http.client.HTTPException) as error:
        raise DaemonSilent(f"{host} port {config.port} does not answer: {error!r}") from error
    except msgspec.MsgspecError as error:
        raise DaemonSilent(f"what listens on {host} port {config.port} is not neuron") from error
    return frozenset({model.id for model in health.models} | {load.model_id for load in health.loading})


def _say(failure: NeuronError, status: int) -> int:
    print(f"neuron: {cause_chain(failure)}", file=sys.stderr)
    return status
