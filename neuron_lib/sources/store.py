"""Turns a `ModelSpec` into checked files on disk: finds the place, looks into the cache, has the rest fetched.

Decides nothing about hardware or engines. Runs everything that blocks in worker threads. Cached files are used as they
are: if all files are cached, no hub is asked and no socket is opened.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Final, TypeAlias, TypeVar

import anyio.to_thread
import msgspec
from msgspec import Struct

from neuron_lib.config import DownloadConfig, ModelEntry, SourceConfig, hub_endpoint
from neuron_lib.errors import LoadFailed, PreflightFailed, PreflightKind, SourceUnavailable, UnknownSource
from neuron_lib.harness import ProgressReporter
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.os_errors import is_exhausted
from neuron_lib.shown import clip
from neuron_lib.sources.fetch_line import FetchLine
from neuron_lib.sources.fetch_protocol import Fetched, FetchOrder
from neuron_lib.sources.formats import FILE, GGUF, SAFETENSORS, format_at, format_of, select_files
from neuron_lib.sources.gguf_header import check_gguf, check_model
from neuron_lib.sources.hub_cache import is_verified, list_cached, list_snapshots, repository_folder, snapshot_path
from neuron_lib.sources.hub_environment import hub_cache_dir, hub_token, offline_variable, source_token
from neuron_lib.sources.hub_token import usable_token
from neuron_lib.sources.local import find_any_path, find_local_folder, find_local_model
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.reference import ModelReference, parse_reference, wanted_quant
from neuron_lib.sources.repository import HubRepository, Listing
from neuron_lib.sources.selection import has_quant, quant_of
from neuron_lib.sources.template_file import read_chat_template
from neuron_lib.types import HUB_SCHEME, LoadProgress, LoadStage, ModelSpec, public_id

__all__ = ("Admit", "LocalModel", "ModelStore")

logger: FieldLogger = get_logger(__name__)

T = TypeVar("T")

_HUB_CANNOT_SAY: Final = frozenset(
    {PreflightKind.REPO_FETCH_FAILED, PreflightKind.REPO_NOT_FOUND, PreflightKind.GATED_REPO}
)
"""Refusals of a hub after which an older copy in the cache is used."""
_HOST_CANNOT_TAKE: Final = frozenset({PreflightKind.INSUFFICIENT_MEMORY, PreflightKind.INSUFFICIENT_STORAGE})
_ALL_FORMATS: Final = (GGUF, SAFETENSORS)
_OUTLINE_LIMIT_S: Final = 15.0
"""The longest that a fetch waits for the outline of what it will fetch."""


class LocalModel(Struct, frozen=True, kw_only=True):
    """A model on disk: the GGUF, or the folder of a model in another `format`, to give to the engine.

    `n_ctx` (tokens), `chat_template` (Jinja) and `tool_format` are those of its `[[models]]` entry. `size_bytes` is the
    size of all files.
    """

    path: Path
    format: str = GGUF
    size_bytes: int = 0
    n_ctx: int | None = None
    chat_template: str | None = None
    tool_format: str | None = None


Admit: TypeAlias = Callable[[LocalModel], Awaitable[None]]
"""Looks at the outline of a model that is to be fetched. Raises a `NeuronError` to refuse the model."""


class ModelStore:
    """Finds and fetches models from all sources. Lives as long as the process. Holds no open resource."""

    def __init__(
        self,
        *,
        entries: Sequence[ModelEntry] = (),
        sources: Mapping[str, SourceConfig],
        default_source: str = HUB_SCHEME,
        local_roots: Sequence[str | Path] | None = (),
        hf_cache: str | Path | None = None,
        download: DownloadConfig | None = None,
        environ: Mapping[str, str],
        ends_with_thread: bool = False,
    ) -> None:
        """Take the variables about hubs from `environ`, as they are now (`hub_environment`).

        If no source is called `huggingface`, one is added, at `HF_ENDPOINT` or the public hub, with the token of this
        user. `hf_cache` is the cache of every source that names none. The `path` of an entry must be below one of
        `local_roots`; None allows any path. `ends_with_thread` is passed to `run_fetch`.
        Raises `ConfigError` for an `HF_ENDPOINT` that is no address.
        """
        self._entries = {public_id(entry.id): entry for entry in entries}
        self._default_source = default_source
        self._local_roots = local_roots
        self._limits = download or DownloadConfig()
        self._has_own_hub = HUB_SCHEME in sources
        if not self._has_own_hub:
            sources = {HUB_SCHEME: SourceConfig(endpoint=hub_endpoint(environ)), **sources}
        self._downloads = FetchLine(self._limits.max_fetches)
        self._checks = FetchLine(self._limits.max_fetches)
        self._outlines = FetchLine(self._limits.max_fetches)
        self._sources = sources
        self._environ = dict(environ)
        shared = hf_cache or hub_cache_dir(environ)
        self._caches = {name: Path(source.cache_dir or shared) for name, source in sources.items()}
        self._ends_with_thread = ends_with_thread
        self._offline_variable = offline_variable(environ)

    async def fetch(
        self,
        spec: ModelSpec,
        *,
        report: ProgressReporter,
        room_bytes: int | None = None,
        most_bytes: int | None = None,
        admit: Admit | None = None,
        refresh: bool = False,
        formats: tuple[str, ...] = (GGUF,),
    ) -> LocalModel:
        """Bring the model's files to this machine, if they are not here, and check that they can be a model.

        A `[[models]]` entry for the public id, or otherwise for the id without its quant, overrides every hub.
        `room_bytes` is the memory that a default quant should fit into. A model of more than `most_bytes` is not
        fetched. `admit` is awaited with the outline of a model (`outline`) before the model is fetched, and raises why
        it must not be. With `refresh` the hub is asked for the newest commit even if an older one is cached. At most
        `max_fetches` downloads run at once. The others wait in order and report their `queue_position`. A model that is
        cached does not wait for downloads. Cancelling ends a running fetch. Raises kinds of `LoadFailed`, or
        `SourceUnavailable` if another try may help.
        """
        report(LoadProgress(stage=LoadStage.RESOLVING))
        reference = parse_reference(spec.model_id)
        entry = self._entry(reference)
        quant = self._quant(reference, entry, spec.quant)
        chat_template = await _in_thread(lambda: _read_template(entry), entry.id)
        found = await _in_thread(lambda: self._find_here(entry, formats), entry.id)
        if found is None:
            repository = await _in_thread(lambda: self._repository(reference, entry), entry.id)
            checked = None if admit is None else partial(_admit, admit, entry)
            found = await self._fetch_from_hub(
                repository,
                quant,
                formats=formats,
                room_bytes=room_bytes,
                most_bytes=most_bytes,
                admit=checked,
                refresh=refresh,
                report=report,
            )
        report(LoadProgress(stage=LoadStage.VERIFYING, file=found.paths[0].name))
        local = await _in_thread(lambda: _checked(found, entry), entry.id)
        return msgspec.structs.replace(local, chat_template=chat_template)

    async def outline(
        self, spec: ModelSpec, *, into: Path, room_bytes: int | None = None, formats: tuple[str, ...] = (GGUF,)
    ) -> LocalModel:
        """The model as `fetch` would bring it here, but of a model that is only on a hub no more than its header.

        The file then has the header and the size of the whole, and a hole instead of the weights (`outline`). It is
        written into the empty directory `into`, which the caller deletes. The cache is not touched, and files in it are
        used as they are. Raises as `fetch` does.
        """
        reference = parse_reference(spec.model_id)
        entry = self._entry(reference)
        quant = self._quant(reference, entry, spec.quant)
        found = await _in_thread(lambda: self._find_here(entry, formats), entry.id)
        if found is None:
            repository = await _in_thread(lambda: self._repository(reference, entry), entry.id)
            found = await self._outline_of(repository, quant, formats=formats, into=into, room_bytes=room_bytes)
        return await _in_thread(lambda: _checked(found, entry), entry.id)

    async def takes(self, spec: ModelSpec, *, formats: tuple[str, ...]) -> bool:
        """Whether the files of a model are of one of the `formats`. Files that are here decide, else the hub is asked.

        Raises kinds of `LoadFailed` for a model that does not exist, and `SourceUnavailable`.
        """
        reference = parse_reference(spec.model_id)
        entry = self._entry(reference)
        if entry.package is not None or self._quant(reference, entry, spec.quant) is not None:
            return GGUF in formats
        if entry.path is not None:
            return format_at(Path(entry.path)) in formats or FILE in formats
        repository = await _in_thread(lambda: self._repository(reference, entry), entry.id)
        listing = await _in_thread(lambda: list_cached(repository), entry.id)
        known = None if listing is None else format_of(listing.files)
        if known is None:
            async with anyio.TemporaryDirectory(prefix="neuron-outline-") as folder:
                order = self._order(repository, None, formats=_ALL_FORMATS, room_bytes=None, outline_dir=Path(folder))
                known = (await self._fetch_outline(order)).format
        return known in formats

    async def _outline_of(
        self,
        repository: HubRepository,
        quant: str | None,
        *,
        formats: tuple[str, ...],
        into: Path,
        room_bytes: int | None,
    ) -> Fetched:
        cached = await _in_thread(
            lambda: _first_fit([list_cached(repository)], quant, room_bytes, repository.model_id, formats),
            repository.model_id,
        )
        if cached is not None:
            return _cached(repository, cached)
        order = self._order(repository, quant, formats=formats, room_bytes=room_bytes, outline_dir=into)
        return await self._fetch_outline(order)

    async def _fetch_outline(self, order: FetchOrder) -> Fetched:
        from neuron_lib.sources import fetch_process  # noqa: PLC0415 - a command that looks at the disk needs none of it

        # No place in a line of downloads: a header is here in seconds, and a download may take hours.
        return await fetch_process.run_fetch(
            order,
            environment=fetch_process.fetch_environment(self._environ),
            report=lambda _progress: None,
            ends_with_thread=self._ends_with_thread,
        )

    async def is_cached(self, model_id: str) -> bool:
        """Whether a load would need no hub. False also for ids without a meaning here. Asks no hub."""
        try:
            return await _in_thread(lambda: self._is_here(model_id), model_id)
        except SourceUnavailable:  # this is not known now
            return False

    async def capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """What a cached model can do, by its files. Empty for files that are not a model. Asks no hub.

        None for a model that is not cached, and while this cannot be found out.
        """
        try:
            return await _in_thread(lambda: self._capabilities(model_id), model_id)
        except SourceUnavailable:
            return None

    async def size_bytes(self, spec: ModelSpec, *, formats: tuple[str, ...] = (GGUF,)) -> int | None:
        """The size of all files with which a load would begin, if the load would need no hub. None otherwise."""
        try:
            return await _in_thread(lambda: self._size_bytes(spec, formats), spec.model_id)
        except (LoadFailed, SourceUnavailable):  # the load will say why
            return None

    def _size_bytes(self, spec: ModelSpec, formats: tuple[str, ...]) -> int | None:
        paths = self.files_here(spec.model_id, spec.quant, formats=formats)
        return None if paths is None else sum(path.stat().st_size for path in paths if path.exists())

    @property
    def cache_dirs(self) -> Mapping[str, Path]:
        """The cache of each source."""
        return self._caches

    def repository(self, model_id: str) -> HubRepository | None:
        """The repository behind an id. None for a model from this machine. Raises kinds of `LoadFailed`."""
        reference = parse_reference(model_id)
        entry = self._entry(reference)
        return self._repository(reference, entry) if entry.path is None and entry.package is None else None

    def _is_here(self, model_id: str) -> bool:
        return self._first_file(model_id) is not None

    def _capabilities(self, model_id: str) -> tuple[str, ...] | None:
        first = self._first_file(model_id)
        if first is None:
            return None
        try:
            return check_gguf(first, model_id=model_id).capabilities
        except PreflightFailed:
            return ()

    def _first_file(self, model_id: str) -> Path | None:
        """The file with which a load would begin, if the load would need no hub."""
        try:
            paths = self.files_here(model_id, None)
        except (LoadFailed, SourceUnavailable):  # the latter: not known now
            return None
        return None if paths is None else paths[0]

    def files_here(
        self, model_id: str, asked: str | None = None, *, formats: tuple[str, ...] = (GGUF,)
    ) -> tuple[Path, ...] | None:
        """The files of a model for which no hub need be asked, None for any other model. Blocking.

        `asked` is a quant. Raises kinds of `LoadFailed`, and `SourceUnavailable`.
        """
        reference = parse_reference(model_id)
        entry = self._entry(reference)
        quant = self._quant(reference, entry, asked)
        found = self._find_here(entry, formats)
        if found is not None:
            return found.paths
        repository = self._repository(reference, entry)
        fit = _first_fit([list_cached(repository)], quant, None, repository.model_id, formats)
        return None if fit is None else _cached(repository, fit).paths

    def quant(self, model_id: str, asked: str | None = None) -> str | None:
        """The quant that an id means, or the one `asked` for beside it. None leaves the choice to the best default.

        Raises kinds of `LoadFailed`, also if the two contradict each other.
        """
        reference = parse_reference(model_id)
        return self._quant(reference, self._entry(reference), asked)

    def _quant(self, reference: ModelReference, entry: ModelEntry, asked: str | None) -> str | None:
        wanted = wanted_quant(reference, asked)
        if wanted is not None and (place := entry.package or entry.path):
            _require_quant(PurePath(place).name, wanted, is_in_id=reference.quant is not None, model_id=entry.id)
        stated = parse_reference(entry.repo).quant if entry.repo else None
        return wanted or entry.quant or stated

    def _entry(self, reference: ModelReference) -> ModelEntry:
        known = self._entries.get(reference.public_id) or self._entries.get(reference.repo_id)
        return known or ModelEntry(id=reference.repo_id)

    def entry(self, model_id: str) -> ModelEntry:
        """The `[[models]]` entry of a model, or one that says nothing. Raises `InvalidModelId`."""
        return self._entry(parse_reference(model_id))

    def _find_here(self, entry: ModelEntry, formats: tuple[str, ...]) -> Fetched | None:
        """The files of an entry with a place on this machine. None for an entry on a hub."""
        if entry.package is not None:
            return Fetched(commit="", paths=(find_package_file(entry.package, model_id=entry.id),))
        if entry.path is None:
            return None
        path, found = str(entry.path), format_at(Path(entry.path))
        if FILE in formats and (found == FILE or found not in formats):
            return Fetched(
                commit="",
                paths=(find_any_path(path, roots=self._local_roots, model_id=entry.id),),
                format=FILE,
            )
        if SAFETENSORS in formats and (found == SAFETENSORS or GGUF not in formats):
            paths = find_local_folder(path, roots=self._local_roots, model_id=entry.id)
            return Fetched(commit="", paths=paths, format=SAFETENSORS)
        return Fetched(commit="", paths=find_local_model(path, roots=self._local_roots, model_id=entry.id))

    def _repository(self, reference: ModelReference, entry: ModelEntry) -> HubRepository:
        target = parse_reference(entry.repo) if entry.repo else reference
        scheme = target.scheme or self._default_source
        source = self._sources.get(scheme)
        if source is None:
            known = ", ".join(sorted(self._sources))
            message = f"model {target.repo_id!r}: there is no source {clip(scheme)!r}; configured: {known}"
            raise UnknownSource(message, model_id=target.repo_id, source=scheme)
        # Read for each model, so that a new login or another token needs no restart.
        token = source_token(source, self._environ)
        if scheme == HUB_SCHEME and not self._has_own_hub:
            token = hub_token(self._environ)
        return HubRepository(
            endpoint=source.endpoint.rstrip("/"),
            repo_id=target.repo_id,
            model_id=f"{scheme}:{target.repo_id}",
            cache_dir=self._caches[scheme],
            revision=entry.revision or "main",
            auth_env=token.place if token else None,
            token=token.value if token else None,
        )

    async def _fetch_from_hub(
        self,
        repository: HubRepository,
        quant: str | None,
        *,
        formats: tuple[str, ...],
        room_bytes: int | None,
        most_bytes: int | None,
        admit: Callable[[Fetched], Awaitable[None]] | None,
        refresh: bool,
        report: ProgressReporter,
    ) -> Fetched:
        """Use the cache, otherwise ask the hub, otherwise use an earlier commit from the cache."""

        def find(*, anywhere: bool = False) -> _Fit | None:
            cached = list_snapshots(repository_folder(repository)) if anywhere else [list_cached(repository)]
            return _first_fit(cached, quant, room_bytes, repository.model_id, formats)

        context = {"model_id": public_id(repository.model_id)}
        is_asked = refresh and self._offline_variable is None
        fit = None if is_asked else await _in_thread(find, repository.model_id)
        if fit is not None:
            if refresh:
                text = "%s is set, so no hub is asked for a newer commit"
                logger.warning(text, self._offline_variable, extra=context)
            try:
                return await self._verify(repository, fit, report=report)
            except PreflightFailed as failure:
                if failure.kind is not PreflightKind.CHECKSUM_MISMATCH:
                    raise
                logger.warning("%s; deleted, fetching it again", failure.message, extra=context)
        try:
            order = self._order(repository, quant, formats=formats, room_bytes=room_bytes, most_bytes=most_bytes)
            if admit is not None:
                await self._admit(order, admit)
            return await self._run_fetch(order, report)
        except (SourceUnavailable, PreflightFailed) as failure:
            if isinstance(failure, PreflightFailed) and failure.kind not in _HUB_CANNOT_SAY:
                raise
            # A revision that was asked for by name is never replaced.
            fit = await _in_thread(partial(find, anywhere=repository.revision == "main"), repository.model_id)
            if fit is None:
                raise
            text = "%s; going on with commit %s from the cache"
            logger.warning(text, failure.message, fit.listing.commit, extra=context)
        return await self._verify(repository, fit, report=report)

    async def _admit(self, order: FetchOrder, admit: Callable[[Fetched], Awaitable[None]]) -> None:
        """Let `admit` look at the outline of what is to be fetched.

        The fetch itself says what is wrong with a hub or a file, after it has tried again. So only the refusals of this
        host count here.
        """
        async with anyio.TemporaryDirectory(prefix="neuron-outline-") as folder:
            asked = msgspec.structs.replace(order, outline_dir=Path(folder), precedes_fetch=True)
            outline = None
            try:
                with anyio.move_on_after(_OUTLINE_LIMIT_S):
                    async with self._outlines.place(lambda _position: None):
                        outline = await self._fetch_outline(asked)
            except (LoadFailed, SourceUnavailable) as failure:
                if isinstance(failure, PreflightFailed) and failure.kind in _HOST_CANNOT_TAKE:
                    raise
                logger.info("no outline before the fetch: %s", failure.log_message)
            if outline is not None:
                await admit(outline)

    def _order(
        self,
        repository: HubRepository,
        quant: str | None,
        *,
        formats: tuple[str, ...],
        room_bytes: int | None,
        most_bytes: int | None = None,
        outline_dir: Path | None = None,
    ) -> FetchOrder:
        """The order to ask the hub for a model. Raises `PreflightFailed` if no hub may be asked with this token."""
        self._require_network(repository)
        token = usable_token(repository.token, place=repository.auth_env, model_id=repository.model_id)
        return FetchOrder(
            repository=msgspec.structs.replace(repository, token=token),
            limits=self._limits,
            formats=formats,
            quant=quant,
            room_bytes=room_bytes,
            most_bytes=most_bytes,
            outline_dir=outline_dir,
        )

    async def _verify(self, repository: HubRepository, fit: "_Fit", *, report: ProgressReporter) -> Fetched:
        """Hash the files that were not hashed since they were written. A wrong file is deleted, and the load is
        refused.
        """
        folder, listing = repository_folder(repository), fit.listing
        doubtful = await _in_thread(
            lambda: tuple(f for f in listing.files if not is_verified(folder, f)), repository.model_id
        )
        if doubtful:
            order = FetchOrder(
                repository=msgspec.structs.replace(repository, token=None),  # no hub is asked, so no token is needed
                limits=self._limits,
                listing=msgspec.structs.replace(listing, files=doubtful),
            )
            await self._run_fetch(order, report)
        return _cached(repository, fit)

    async def _run_fetch(self, order: FetchOrder, report: ProgressReporter) -> Fetched:
        """Wait for a place in the line, without a process, and then fetch. Files that are only hashed have a line of
        their own.
        """
        from neuron_lib.sources import fetch_process  # noqa: PLC0415 - a command that looks at the disk needs none of it

        downloads = order.listing is None
        line = self._downloads if downloads else self._checks
        stage = LoadStage.RESOLVING if downloads else LoadStage.VERIFYING

        def report_position(position: int) -> None:
            report(LoadProgress(stage=stage, queue_position=position or None))

        async with line.place(report_position):
            return await fetch_process.run_fetch(
                order,
                environment=fetch_process.fetch_environment(self._environ),
                report=report,
                ends_with_thread=self._ends_with_thread,
            )

    def _require_network(self, repository: HubRepository) -> None:
        if self._offline_variable is not None:
            cause = f"{self._offline_variable} is set, so no hub is asked"
            raise PreflightFailed(
                PreflightKind.REPO_FETCH_FAILED,
                f"{repository.model_id} is not in {repository.cache_dir}; {cause}",
                model_id=repository.model_id,
                cause=cause,
            )


async def _admit(admit: Admit, entry: ModelEntry, outline: Fetched) -> None:
    await admit(_local(outline, entry))


def _checked(found: Fetched, entry: ModelEntry) -> LocalModel:
    """The model of these files, which are those of a model as far as can be seen here. Blocking."""
    if found.format == GGUF:
        check_model(found.paths, model_id=entry.id)
    return _local(found, entry)


def _local(found: Fetched, entry: ModelEntry) -> LocalModel:
    first = found.paths[0]
    return LocalModel(
        path=first.parent if found.format == SAFETENSORS else first,
        format=found.format,
        size_bytes=sum(path.stat().st_size for path in found.paths if path.exists()),
        n_ctx=entry.n_ctx,
        tool_format=entry.tool_format,
    )


class _Fit(Struct, frozen=True):
    """The cached files of one commit that are a model, and their format."""

    listing: Listing
    format: str


def _cached(repository: HubRepository, fit: _Fit) -> Fetched:
    folder, commit = repository_folder(repository), fit.listing.commit
    paths = tuple(snapshot_path(folder, commit, file.path) for file in fit.listing.files)
    return Fetched(commit=commit, paths=paths, format=fit.format)


def _first_fit(
    listings: Iterable[Listing | None],
    quant: str | None,
    room_bytes: int | None,
    model_id: str,
    formats: tuple[str, ...],
) -> _Fit | None:
    """The files to load from the first of `listings` that has all of them. None if none has."""
    for listing in listings:
        if listing is not None:
            try:
                chosen = select_files(
                    listing.files, formats=formats, quant=quant, model_id=model_id, room_bytes=room_bytes
                )
            except PreflightFailed:  # the hub may know more, or give a better reason
                continue
            return _Fit(msgspec.structs.replace(listing, files=chosen.files), chosen.format)
    return None


def _require_quant(file: str, quant: str, *, is_in_id: bool, model_id: str) -> None:
    """Check the quant of a model that is one file. It cannot choose, so it must be that of the file.

    The name of the file may not say which quant it is. Then a quant beside the id is believed. A quant in the id is
    not, because it would be published.
    """
    if not has_quant(file, quant) and (is_in_id or quant_of(file) is not None):
        raise PreflightFailed(
            PreflightKind.QUANT_NOT_FOUND,
            f"{model_id} is the file {file}, which is not of quant {quant!r}",
            model_id=model_id,
            requested=quant,
            available=(file,),
            nearest=quant_of(file),
        )


def _read_template(entry: ModelEntry) -> str | None:
    return None if entry.chat_template is None else read_chat_template(Path(entry.chat_template), model_id=entry.id)


async def _in_thread(work: Callable[[], T], model_id: str) -> T:
    """Run a blocking function in a worker thread. Raises `SourceUnavailable`, about `model_id`, while this host has no
    threads.
    """
    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except RuntimeError as error:
        if not is_exhausted(error):
            raise
        raise SourceUnavailable(f"{model_id}: no thread to look at its files", model_id=model_id) from error
