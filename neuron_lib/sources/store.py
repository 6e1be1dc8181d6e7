"""Turns a `ModelSpec` into a checked file on disk: finds the place, selects, fetches, verifies.

Decides nothing about hardware or engines, and runs everything that blocks in worker threads.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import anyio.to_thread
from msgspec import Struct

from neuron_lib.config import ModelEntry, SourceConfig
from neuron_lib.errors import LoadFailed, PreflightFailed, SourceUnavailable, UnknownSource
from neuron_lib.harness import ProgressReporter
from neuron_lib.sources.gguf_header import check_gguf
from neuron_lib.sources.huggingface import HubRepository, download, list_cached, list_repository
from neuron_lib.sources.local import find_local_file
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.reference import ModelReference, parse_reference
from neuron_lib.sources.selection import Selection, select_gguf
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec

__all__ = ("LocalModel", "ModelStore")

logger = logging.getLogger(__name__)

T = TypeVar("T")

_HUB: Final = "huggingface"


class LocalModel(Struct, frozen=True, kw_only=True):
    """A model on disk: the GGUF to give to the engine, and what its `[[models]]` entry asks for.

    `n_ctx` is the context in tokens, `chat_template` a file with a Jinja template to use instead of the model's own.
    """

    path: Path
    n_ctx: int | None = None
    chat_template: Path | None = None


class ModelStore:
    """Everything models can be fetched from. Lives as long as the process; holds no open resource."""

    def __init__(
        self,
        *,
        entries: Sequence[ModelEntry] = (),
        sources: Mapping[str, SourceConfig],
        default_source: str = _HUB,
        local_roots: Sequence[Path] = (),
        hf_cache: Path | None = None,
        environ: Mapping[str, str],
    ) -> None:
        """Read cache directories and tokens from `environ`, once (contract §3.2)."""
        self._entries = {entry.id: entry for entry in entries}
        self._default_source = default_source
        self._local_roots = tuple(local_roots)
        if _HUB not in sources:
            hub = SourceConfig(endpoint="https://huggingface.co", auth_env="HF_TOKEN", cache_dir=hf_cache)
            sources = {_HUB: hub, **sources}
        self._sources = sources
        self._tokens = {name: environ.get(source.auth_env or "") for name, source in sources.items()}
        self._caches = {name: _cache_dir(name, source, environ) for name, source in sources.items()}

    async def fetch(self, spec: ModelSpec, *, report: ProgressReporter) -> LocalModel:
        """Bring the model's files to this machine, if they are not here, and check that they can be a model.

        A `[[models]]` entry for the public id goes before every hub. Cancelling returns at once; a running download
        ends by itself in its thread. Raises `LoadFailed` kinds, or `SourceUnavailable` when a retry may help.
        """
        report(LoadProgress(stage=LoadStage.RESOLVING))
        reference = parse_reference(spec.model_id)
        entry = self._entry(reference)
        path = await _in_thread(lambda: self._find_here(entry))
        if path is None:
            repository = self._repository(reference, entry)
            commit, selection = await _in_thread(lambda: _choose(repository, spec.quant or entry.quant))
            report(LoadProgress(stage=LoadStage.DOWNLOADING, file=selection.files[0]))
            path = await _in_thread(lambda: download(repository, commit, selection.files))
        report(LoadProgress(stage=LoadStage.VERIFYING, file=path.name))
        await _in_thread(lambda: check_gguf(path, model_id=entry.id))
        return LocalModel(path=path, n_ctx=entry.n_ctx, chat_template=entry.chat_template)

    async def is_cached(self, model_id: str) -> bool:
        """Tell whether a load could do without any hub; False also for ids that mean nothing here. Asks nobody."""
        return await _in_thread(lambda: self._is_here(model_id))

    def _is_here(self, model_id: str) -> bool:
        try:
            reference = parse_reference(model_id)
            entry = self._entry(reference)
            if self._find_here(entry) is not None:
                return True
            return _choose_cached(self._repository(reference, entry), entry.quant) is not None
        except LoadFailed:
            return False

    def _entry(self, reference: ModelReference) -> ModelEntry:
        return self._entries.get(reference.public_id) or ModelEntry(id=reference.public_id)

    def _find_here(self, entry: ModelEntry) -> Path | None:
        """Return the file of an entry whose place is on this machine; None for one that is on a hub."""
        if entry.package is not None:
            return find_package_file(entry.package, model_id=entry.id)
        if entry.path is not None:
            return find_local_file(str(entry.path), roots=self._local_roots, model_id=entry.id)
        return None

    def _repository(self, reference: ModelReference, entry: ModelEntry) -> HubRepository:
        target = parse_reference(entry.repo) if entry.repo else reference
        scheme = target.scheme or self._default_source
        source = self._sources.get(scheme)
        if source is None:
            known = ", ".join(sorted(self._sources))
            message = f"model {target.public_id!r}: there is no source {scheme!r}; configured: {known}"
            raise UnknownSource(message, model_id=target.public_id, source=scheme)
        return HubRepository(
            endpoint=source.endpoint.rstrip("/"),
            repo_id=target.public_id,
            model_id=f"{scheme}:{target.public_id}",
            cache_dir=self._caches[scheme],
            revision=entry.revision or "main",
            auth_env=source.auth_env,
            token=self._tokens[scheme],
        )


def _choose(repository: HubRepository, quant: str | None) -> tuple[str, Selection]:
    """Return the commit and the files to load: of the hub, or while that refuses to answer, of the cache."""
    try:
        listing = list_repository(repository)
    except (PreflightFailed, SourceUnavailable) as failure:
        cached = _choose_cached(repository, quant)
        if cached is None:
            raise
        logger.warning("%s; going on with the copy in the cache", failure.message)
        return cached
    return listing.commit, select_gguf(listing.files, quant=quant, model_id=repository.model_id)


def _choose_cached(repository: HubRepository, quant: str | None) -> tuple[str, Selection] | None:
    listing = list_cached(repository)
    if listing is None:
        return None
    try:
        return listing.commit, select_gguf(listing.files, quant=quant, model_id=repository.model_id)
    except PreflightFailed:  # the cache lacks it; why the hub was silent is the better answer
        return None


def _cache_dir(scheme: str, source: SourceConfig, environ: Mapping[str, str]) -> Path:
    """Where a source caches (contract §3.2). The two HF variables mean the `huggingface` source only."""
    if source.cache_dir is not None:
        return source.cache_dir
    if scheme == _HUB and (hub := environ.get("HF_HUB_CACHE")):
        return Path(hub).expanduser()
    if scheme == _HUB and (home := environ.get("HF_HOME")):
        return Path(home).expanduser() / "hub"
    return _user_cache(environ) / "huggingface" / "hub"


def _user_cache(environ: Mapping[str, str]) -> Path:
    if home := environ.get("HOME"):
        return Path(home) / ".cache"
    # A service user without a home has the directory systemd made for it, perhaps as the first of several.
    if made := environ.get("CACHE_DIRECTORY"):
        return Path(made.partition(":")[0])
    return Path(os.path.expanduser("~/.cache"))  # noqa: PTH111 - Path.expanduser raises for a user without a home


async def _in_thread(work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
