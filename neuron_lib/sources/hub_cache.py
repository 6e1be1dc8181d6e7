"""The cache that all Hugging Face tools share, as files on disk: what it holds, what is whole, what can be deleted.
Blocking.

No hub is asked here, so a host whose models are all cached opens no socket. The layout
(`docs/reference/wire-contract.md#sources-and-caches`) of `models--org--name/`:

- `blobs/` has the contents, named by their hash.
- `snapshots/<commit>/` has links to the blobs, by file name.
- `refs/` says at which commit a branch was.
- `verified/` is an addition of this project: under a blob's name the size and the time of the blob when it was last
  hashed.
- `blobs/<name>.incomplete` is another addition: a blob that is being fetched.
"""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuron_lib.sources.repository import HubRepository, KnownFile, Listing, RepoFile, is_commit

__all__ = (
    "CachedRepository",
    "Partial",
    "blob_path",
    "discard_blob",
    "forget_empty",
    "forget_snapshot_file",
    "is_verified",
    "link_snapshot",
    "list_cached",
    "list_partials",
    "list_repositories",
    "list_snapshots",
    "lock_path",
    "mark_verified",
    "partial_path",
    "partials_of",
    "remember_commit",
    "repository_folder",
    "snapshot_path",
    "sweep_partials",
)

_PREFIX: Final = "models--"
_PARTIAL: Final = ".incomplete"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})
_STALE_PARTIAL_S: Final = 24 * 3600.0
"""Seconds. A younger partial file may be continued, or another tool may still write it."""


class CachedRepository(Struct, frozen=True, kw_only=True):
    """One repository of a cache. `listings` has every snapshot with files, the newest first."""

    repo_id: str
    folder: Path
    listings: tuple[Listing, ...]


class Partial(Struct, frozen=True):
    """A blob that was begun and not finished. `age_s` is the time since the last byte was written."""

    path: Path
    size: int
    age_s: float


def repository_folder(repository: HubRepository) -> Path:
    """The folder of a repository in the cache."""
    return repository.cache_dir / f"{_PREFIX}{repository.repo_id.replace('/', '--')}"


def blob_path(folder: Path, blob: str) -> Path:
    """The path of the content named `blob`, whether or not it exists."""
    return folder / "blobs" / blob


def partial_path(folder: Path, blob: str) -> Path:
    """The path at which a blob grows. The name is always the same, so that a later try finds the file."""
    return folder / "blobs" / f"{blob}{_PARTIAL}"


def partials_of(folder: Path, blob: str) -> list[int]:
    """The number of bytes that each process has of a blob that it is fetching. Other tools add a number to the name."""
    sizes = []
    for path in (folder / "blobs").glob(f"{glob.escape(blob)}*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # it was finished meanwhile
            sizes.append(path.stat().st_size)
    return sizes


def lock_path(folder: Path, blob: str) -> Path:
    """The file that every tool locks before it writes this blob."""
    return folder.parent / ".locks" / folder.name / f"{blob}.lock"


def snapshot_path(folder: Path, commit: str, path: str) -> Path:
    """The path of a file of a commit, by its name. `path` must be safe (`is_safe_path`)."""
    return folder / "snapshots" / commit / path


def list_cached(repository: HubRepository) -> Listing | None:
    """The cached files of the commit that the repository's revision last meant. None if there are none.

    A link without its blob counts as a missing file.
    """
    folder, commit = repository_folder(repository), repository.revision
    if not is_commit(commit):
        try:
            commit = (folder / "refs" / commit).read_text("ascii").strip()
        except (OSError, ValueError):
            return None
    return _list_snapshot(folder, commit) if is_commit(commit) else None


def list_snapshots(folder: Path) -> Iterator[Listing]:
    """Every commit with cached files, the one written last first."""
    for directory in sorted(_directories(folder / "snapshots"), key=_changed_s, reverse=True):
        if is_commit(directory.name) and (listing := _list_snapshot(folder, directory.name)) is not None:
            yield listing


def list_repositories(cache_dir: Path) -> Iterator[CachedRepository]:
    """The repositories of a cache, by name."""
    for folder in sorted(_directories(cache_dir)):
        if folder.name.startswith(_PREFIX):
            repo_id = folder.name.removeprefix(_PREFIX).replace("--", "/", 1)
            yield CachedRepository(repo_id=repo_id, folder=folder, listings=tuple(list_snapshots(folder)))


def _list_snapshot(folder: Path, commit: str) -> Listing | None:
    snapshot = folder / "snapshots" / commit
    files = []
    with contextlib.suppress(OSError):
        files = [
            RepoFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, _linked_blob(path))
            for path in sorted(snapshot.rglob("*"))
            if path.is_file()
        ]
    return Listing(commit, tuple(files)) if files else None


def _linked_blob(path: Path) -> str | None:
    """The blob behind a file of a snapshot. None if the file is no link, as on file systems without links."""
    target = path.readlink() if path.is_symlink() else path
    return target.name if target.parent.name == "blobs" else None


def link_snapshot(folder: Path, commit: str, file: KnownFile) -> Path:
    """Make a finished blob available by its name in a commit. Returns that path. May be called again.

    On a file system without symbolic links the blob itself gets the name, as with other tools.
    """
    link = snapshot_path(folder, commit, file.path)
    if link.exists() and _linked_blob(link) in {file.blob, None}:
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    # The file may be inside directories of the repository, so the way back up varies.
    target = os.path.relpath(blob_path(folder, file.blob), link.parent)
    with contextlib.suppress(FileNotFoundError):
        link.unlink()  # the link led nowhere or to something else
    try:
        link.symlink_to(target)
    except FileExistsError:  # another process made the same link first
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        blob_path(folder, file.blob).replace(link)
    return link


def remember_commit(repository: HubRepository, commit: str) -> None:
    """Note which commit a branch means, for times without a hub. Call it when the commit's files are in the cache."""
    if is_commit(repository.revision):
        return
    ref = repository_folder(repository) / "refs" / repository.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    written = ref.with_name(f"{ref.name}.{os.getpid()}")
    written.write_text(commit, "ascii")
    written.replace(ref)


def is_verified(folder: Path, file: RepoFile) -> bool:
    """Whether the content was hashed after it was last changed. Never true for a blob whose name is not a SHA-256."""
    if file.sha256 is None:
        return True
    with contextlib.suppress(OSError):
        return _mark_path(folder, file.sha256).read_text("ascii") == _fingerprint(blob_path(folder, file.sha256))
    return False


def mark_verified(folder: Path, blob: str) -> None:
    """Note that the content of `blob` has the hash in its name, if the cache can be written."""
    with contextlib.suppress(OSError):
        mark = _mark_path(folder, blob)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(_fingerprint(blob_path(folder, blob)), "ascii")


def _mark_path(folder: Path, blob: str) -> Path:
    return folder / "verified" / blob


def _fingerprint(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def discard_blob(folder: Path, blob: str) -> None:
    """Delete a content with a wrong hash. Links to it lead nowhere until it is fetched again."""
    for path in (_mark_path(folder, blob), partial_path(folder, blob), blob_path(folder, blob)):
        path.unlink(missing_ok=True)


def forget_snapshot_file(folder: Path, commit: str, file: RepoFile) -> int:
    """Delete a file of a commit, and its content unless another name leads to it. Returns the number of freed bytes."""
    snapshot_path(folder, commit, file.path).unlink(missing_ok=True)
    if file.blob is None:
        return file.size or 0
    if any(other.blob == file.blob for listing in list_snapshots(folder) for other in listing.files):
        return 0
    discard_blob(folder, file.blob)
    return file.size or 0


def forget_empty(folder: Path) -> None:
    """Delete the directories of commits without files, and the whole folder if nothing is left in it."""
    for snapshot in _directories(folder / "snapshots"):
        # From the inside out. A directory with content stays.
        for directory in (*sorted(_all_directories(snapshot), reverse=True), snapshot):
            with contextlib.suppress(OSError):
                directory.rmdir()
    if not _directories(folder / "snapshots") and not any((folder / "blobs").glob("*")):
        shutil.rmtree(folder, ignore_errors=True)


def _all_directories(parent: Path) -> list[Path]:
    return [path for path in parent.rglob("*") if path.is_dir() and not path.is_symlink()]


def list_partials(cache_dir: Path, *, now_s: float) -> Iterator[Partial]:
    """The unfinished blobs of all repositories, those of other tools included."""
    for folder in _directories(cache_dir):
        if folder.name.startswith(_PREFIX):
            for path in sorted((folder / "blobs").glob(f"*{_PARTIAL}")):
                with contextlib.suppress(OSError):  # it was finished or deleted meanwhile
                    status = path.stat()
                    yield Partial(path, status.st_size, now_s - status.st_mtime)


def sweep_partials(cache_dir: Path, *, now_s: float, older_than_s: float = _STALE_PARTIAL_S) -> tuple[Partial, ...]:
    """Delete partial blobs that no process writes any more, and return them. A file that cannot be deleted stays."""
    swept = []
    for partial in list_partials(cache_dir, now_s=now_s):
        if partial.age_s > older_than_s and not _is_locked(partial.path):
            with contextlib.suppress(OSError):
                partial.path.unlink()
                swept.append(partial)
    return tuple(swept)


def _is_locked(partial: Path) -> bool:
    blob = partial.name.partition(".")[0]
    try:
        with lock_path(partial.parents[1], blob).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock file, or none that may be opened
        return False
    return False


def _directories(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:
        return []


def _changed_s(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
