"""The cache that every Hugging Face tool shares, as files on disk: what is there, what is whole, what to clear away.

Blocking, and without any hub: a host whose models are all here opens no socket. Knows the layout (contract §3.2):
`models--org--name/` holds `blobs/` by the hash of their content, `snapshots/<commit>/` with links to them by name,
and `refs/` that say which commit a branch was at. Ours beside them: `verified/` has, under a blob's name, its size and
time when it was last hashed, and a blob that is on its way is `blobs/<name>.incomplete`.
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
"""Younger ones may be resumed, or belong to another tool that is still writing them."""


class CachedRepository(Struct, frozen=True, kw_only=True):
    """One repository of a cache. `listings` has every snapshot that holds files, the newest first."""

    repo_id: str
    folder: Path
    listings: tuple[Listing, ...]


class Partial(Struct, frozen=True):
    """A blob that was begun and not finished. `age_s` counts from the last byte written."""

    path: Path
    size: int
    age_s: float


def repository_folder(repository: HubRepository) -> Path:
    """Where the cache keeps a repository."""
    return repository.cache_dir / f"{_PREFIX}{repository.repo_id.replace('/', '--')}"


def blob_path(folder: Path, blob: str) -> Path:
    """Where the content named `blob` is, or will be."""
    return folder / "blobs" / blob


def partial_path(folder: Path, blob: str) -> Path:
    """Where a blob grows, under the one name by which a later try finds it."""
    return folder / "blobs" / f"{blob}{_PARTIAL}"


def partials_of(folder: Path, blob: str) -> list[int]:
    """How many bytes of a blob each process has that is fetching it; other tools add a number to the name."""
    sizes = []
    for path in (folder / "blobs").glob(f"{glob.escape(blob)}*{_PARTIAL}"):
        with contextlib.suppress(OSError):  # finished meanwhile
            sizes.append(path.stat().st_size)
    return sizes


def lock_path(folder: Path, blob: str) -> Path:
    """The file that everybody locks who writes this blob, other tools included."""
    return folder.parent / ".locks" / folder.name / f"{blob}.lock"


def snapshot_path(folder: Path, commit: str, path: str) -> Path:
    """Where a file of a commit is found by name. `path` must be safe (`is_safe_path`)."""
    return folder / "snapshots" / commit / path


def list_cached(repository: HubRepository) -> Listing | None:
    """List what is here of the commit that the repository's revision was last known to mean; None if that is nothing.

    A link without its blob counts as missing (contract §3.2).
    """
    folder, commit = repository_folder(repository), repository.revision
    if not is_commit(commit):
        try:
            commit = (folder / "refs" / commit).read_text("ascii").strip()
        except (OSError, ValueError):
            return None
    return _list_snapshot(folder, commit) if is_commit(commit) else None


def list_snapshots(folder: Path) -> Iterator[Listing]:
    """List every commit of which something is here, the one written last first."""
    for directory in sorted(_directories(folder / "snapshots"), key=_changed_s, reverse=True):
        if is_commit(directory.name) and (listing := _list_snapshot(folder, directory.name)) is not None:
            yield listing


def list_repositories(cache_dir: Path) -> Iterator[CachedRepository]:
    """List the repositories of a cache, by name."""
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
    """The blob behind a file of a snapshot; None where it is a file of its own, as on file systems without links."""
    target = path.readlink() if path.is_symlink() else path
    return target.name if target.parent.name == "blobs" else None


def link_snapshot(folder: Path, commit: str, file: KnownFile) -> Path:
    """Make a finished blob reachable by its name in a commit; returns that path. Doing it again changes nothing.

    On a file system without symbolic links the blob itself gets the name, as other tools do it.
    """
    link = snapshot_path(folder, commit, file.path)
    if link.exists() and _linked_blob(link) in {file.blob, None}:
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    # The file may be below directories of the repository, so the way back up varies.
    target = os.path.relpath(blob_path(folder, file.blob), link.parent)
    with contextlib.suppress(FileNotFoundError):
        link.unlink()  # it led nowhere, or to something else
    try:
        link.symlink_to(target)
    except FileExistsError:  # another process was quicker, with the same link
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        blob_path(folder, file.blob).replace(link)
    return link


def remember_commit(repository: HubRepository, commit: str) -> None:
    """Note which commit a branch means, for the time without a hub. To be called when its files are here."""
    if is_commit(repository.revision):
        return
    ref = repository_folder(repository) / "refs" / repository.revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    written = ref.with_name(f"{ref.name}.{os.getpid()}")
    written.write_text(commit, "ascii")
    written.replace(ref)


def is_verified(folder: Path, file: RepoFile) -> bool:
    """Tell whether the content was hashed since it last changed. What has no SHA-256 for a name cannot be."""
    if file.sha256 is None:
        return True
    with contextlib.suppress(OSError):
        return _mark_path(folder, file.sha256).read_text("ascii") == _fingerprint(blob_path(folder, file.sha256))
    return False


def mark_verified(folder: Path, blob: str) -> None:
    """Note that the content of `blob` has the hash it is named for, if the cache can be written to."""
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
    """Delete a content that is not what it is named for. Links to it lead nowhere until it is fetched again."""
    for path in (_mark_path(folder, blob), partial_path(folder, blob), blob_path(folder, blob)):
        path.unlink(missing_ok=True)


def forget_snapshot_file(folder: Path, commit: str, file: RepoFile) -> int:
    """Delete a file of a commit, and its content unless another name leads to it; returns the bytes set free."""
    snapshot_path(folder, commit, file.path).unlink(missing_ok=True)
    if file.blob is None:
        return file.size or 0
    if any(other.blob == file.blob for listing in list_snapshots(folder) for other in listing.files):
        return 0
    discard_blob(folder, file.blob)
    return file.size or 0


def forget_empty(folder: Path) -> None:
    """Delete the directories of commits of which nothing is left, and the whole folder once nothing is left in it."""
    for snapshot in _directories(folder / "snapshots"):
        # From the innermost out; a directory that holds something stays.
        for directory in (*sorted(_all_directories(snapshot), reverse=True), snapshot):
            with contextlib.suppress(OSError):
                directory.rmdir()
    if not _directories(folder / "snapshots") and not any((folder / "blobs").glob("*")):
        shutil.rmtree(folder, ignore_errors=True)


def _all_directories(parent: Path) -> list[Path]:
    return [path for path in parent.rglob("*") if path.is_dir() and not path.is_symlink()]


def list_partials(cache_dir: Path, *, now_s: float) -> Iterator[Partial]:
    """List the blobs of all repositories that were begun and not finished, ours and those of other tools."""
    for folder in _directories(cache_dir):
        if folder.name.startswith(_PREFIX):
            for path in sorted((folder / "blobs").glob(f"*{_PARTIAL}")):
                with contextlib.suppress(OSError):  # finished or cleared away meanwhile
                    status = path.stat()
                    yield Partial(path, status.st_size, now_s - status.st_mtime)


def sweep_partials(cache_dir: Path, *, now_s: float, older_than_s: float = _STALE_PARTIAL_S) -> tuple[Partial, ...]:
    """Delete partial blobs that nobody writes any more; returns them. What cannot be deleted stays."""
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
    except OSError:  # there is no lock file, or none that we may open
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
