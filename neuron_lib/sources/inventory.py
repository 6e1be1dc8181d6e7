"""Which models are on this machine, who uses them, and what a removal deletes. Pure: structs in, structs out.

`survey` looks at the disk. The caller finds out which models are loaded.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuron_lib.config import ModelEntry
from neuron_lib.errors import LoadFailed, PreflightFailed
from neuron_lib.sources.hub_cache import CachedRepository, repository_folder
from neuron_lib.sources.repository import HubRepository, Listing, RepoFile
from neuron_lib.sources.selection import Selection, list_models, quant_of, select_gguf
from neuron_lib.types import ModelSpec, names_model

__all__ = (
    "Claim",
    "Doomed",
    "FoundFile",
    "FoundRepository",
    "ModelHere",
    "content_bytes",
    "list_claims",
    "list_models_here",
    "plan_removal",
    "require_unloaded",
    "shown_sources",
)

_MOST_NAMED: Final = 12


class Claim(Struct, frozen=True, kw_only=True):
    """A use of a model: by an entry of the configuration, by the list of default models, or by a running service.

    `user` names the use: the id of the entry, `default`, or `loaded`. `folder` is the folder of the repository in the
    cache. It is None for a model from elsewhere, and for an id that names no model here.
    """

    model_id: str
    user: str
    folder: Path | None


class FoundFile(Struct, frozen=True, kw_only=True):
    """The file or folder of an entry with a `path` or a `package`. `place` is what the entry says. `size_bytes` is None
    where there is nothing.
    """

    entry_id: str
    place: str
    size_bytes: int | None


class FoundRepository(Struct, frozen=True, kw_only=True):
    """A repository in a cache. `source` is the one whose cache it is; `unverified` are its files that were not hashed
    since they were written.
    """

    source: str
    cached: CachedRepository
    unverified: frozenset[RepoFile] = frozenset()


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


class Doomed(Struct, frozen=True):
    """A file of one commit that a removal deletes."""

    commit: str
    file: RepoFile


def list_claims(
    entries: Iterable[ModelEntry],
    defaults: Iterable[ModelSpec],
    loaded: Iterable[str],
    *,
    folder_of: Callable[[str], Path | None],
) -> list[Claim]:
    """Every use of a model that is known. `loaded` are the ids that a service has loaded or is loading."""
    users = [
        *((entry.id, entry.id) for entry in entries),
        *((spec.model_id, "default") for spec in defaults),
        *((model_id, "loaded") for model_id in sorted(loaded)),
    ]
    return [Claim(model_id=model_id, user=user, folder=folder_of(model_id)) for model_id, user in users]


def shown_sources(cache_dirs: Mapping[str, Path], *, default_source: str) -> dict[Path, str]:
    """Each cache with the source it is shown under. `cache_dirs` has the cache of each source.

    A cache that several sources share is shown under the default source if that is one of them, else under the first
    of them.
    """
    shown: dict[Path, str] = {}
    for source in sorted(cache_dirs, key=lambda source: source != default_source):
        shown.setdefault(cache_dirs[source], source)
    return shown


def list_models_here(
    files: Iterable[FoundFile], repositories: Iterable[FoundRepository], claims: Sequence[Claim]
) -> list[ModelHere]:
    """Every GGUF model that was found: those of `files` first, then those in the caches, in the order given."""
    users: dict[Path | None, dict[str, None]] = {}
    for claim in claims:
        users.setdefault(claim.folder, {})[claim.user] = None
    return [
        *(_local_model(file, claims) for file in files),
        *(
            model
            for repository in repositories
            for model in _cached_models(repository, tuple(users.get(repository.cached.folder, ())))
        ),
    ]


def _local_model(file: FoundFile, claims: Iterable[Claim]) -> ModelHere:
    is_here = file.size_bytes is not None
    return ModelHere(
        id=file.entry_id,
        quant=quant_of(file.place.rpartition("/")[2]),
        size_bytes=file.size_bytes or 0,
        files=(file.place,) if is_here else (),
        commit=None,
        is_verified=None,
        missing=None if is_here else file.place,
        used_by=tuple(
            dict.fromkeys(
                claim.user
                for claim in claims
                if claim.user != claim.model_id and names_model(file.entry_id, claim.model_id, quant=None)
            )
        ),
    )


def _cached_models(repository: FoundRepository, used_by: tuple[str, ...]) -> Iterator[ModelHere]:
    for listing in repository.cached.listings:
        for model in list_models(listing.files):
            yield ModelHere(
                id=f"{repository.source}:{repository.cached.repo_id}",
                quant=model.quant,
                size_bytes=sum(file.size or 0 for file in model.files),
                files=tuple(file.path for file in model.files),
                commit=listing.commit,
                is_verified=repository.unverified.isdisjoint(model.files),
                missing=model.missing,
                used_by=used_by,
            )


def plan_removal(
    repository: HubRepository, cached: Collection[CachedRepository], *, quant: str | None
) -> tuple[Doomed, ...]:
    """The files to delete: those of one quant, or of every model of the repository. At least one.

    `cached` is all that the repository's cache holds. Raises `LoadFailed` kinds if there is nothing to delete.
    """
    folder = repository_folder(repository)
    listings = [listing for each in cached if each.folder == folder for listing in each.listings]
    failure: LoadFailed = _not_cached(repository, [each.repo_id for each in cached if each.listings])
    doomed: list[Doomed] = []
    for listing in listings:
        try:
            models = _matching(listing, quant, repository.model_id)
        except PreflightFailed as refusal:  # another commit may have the file
            failure = refusal
        else:
            doomed += [Doomed(listing.commit, file) for model in models for file in model.files]
    if not doomed:
        raise failure
    return tuple(doomed)


def _matching(listing: Listing, quant: str | None, model_id: str) -> tuple[Selection, ...]:
    if quant:
        return (select_gguf(listing.files, quant=quant, model_id=model_id),)
    return list_models(listing.files)


def _not_cached(repository: HubRepository, here: Sequence[str]) -> LoadFailed:
    more = f" and {len(here) - _MOST_NAMED} more" if len(here) > _MOST_NAMED else ""
    there = f"there is {', '.join(here[:_MOST_NAMED])}{more}" if here else "there is no model in it"
    return LoadFailed(f"{repository.model_id} is not in {repository.cache_dir}; {there}")


def require_unloaded(repository: HubRepository, claims: Iterable[Claim]) -> None:
    """Raises `LoadFailed` if a loaded model comes from the repository."""
    folder = repository_folder(repository)
    for claim in claims:
        if claim.user == "loaded" and claim.folder == folder:
            raise LoadFailed(f"{claim.model_id} is loaded from {repository.model_id}: unload it first")


def content_bytes(doomed: Iterable[Doomed]) -> int:
    """The size of the files in bytes. Content that several commits share counts once."""
    return sum({each.file.blob or (each.commit, each.file.path): each.file.size or 0 for each in doomed}.values())
