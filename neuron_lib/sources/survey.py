"""What `inventory` is told about the disk. Blocking; asks no hub."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from neuron_lib.config import ModelEntry
from neuron_lib.errors import PreflightFailed, SourceUnavailable
from neuron_lib.sources.hub_cache import is_verified, list_repositories
from neuron_lib.sources.inventory import FoundFile, FoundRepository
from neuron_lib.sources.local import find_any_path
from neuron_lib.sources.package import find_package_file

__all__ = ("find_files", "find_repositories")


def find_files(entries: Iterable[ModelEntry], *, local_roots: Sequence[str | Path] | None) -> Iterator[FoundFile]:
    """Look for the file or folder of each entry with a `path` or a `package`; other entries are left out."""
    for entry in entries:
        if (place := entry.path or entry.package) is not None:
            yield FoundFile(entry_id=entry.id, place=str(place), size_bytes=_size_bytes(entry, local_roots))


def _size_bytes(entry: ModelEntry, local_roots: Sequence[str | Path] | None) -> int | None:
    with suppress(PreflightFailed, SourceUnavailable, OSError):
        if entry.package is not None:
            return find_package_file(entry.package, model_id=entry.id).stat().st_size
        place = find_any_path(str(entry.path), roots=local_roots, model_id=entry.id)
        files = [each for each in place.iterdir() if each.is_file()] if place.is_dir() else [place]
        return sum(each.stat().st_size for each in files)
    return None


def find_repositories(cache_dir: Path, *, source: str) -> Iterator[FoundRepository]:
    """List the repositories of a cache that is shown as that of `source`."""
    for cached in list_repositories(cache_dir):
        files = {file for listing in cached.listings for file in listing.files}
        unverified = frozenset(file for file in files if not is_verified(cached.folder, file))
        yield FoundRepository(source=source, cached=cached, unverified=unverified)
