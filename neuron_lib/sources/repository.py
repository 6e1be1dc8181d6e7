"""A repository on a hub as data: where it is, and its files at one commit. Asks no hub and opens no file."""

import re
from pathlib import Path, PurePosixPath
from typing import Final

from msgspec import Struct

from neuron_lib.sources.foreign_text import one_line

__all__ = ("HubRepository", "KnownFile", "Listing", "RepoFile", "is_commit", "is_safe_path", "known")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_BLOB: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\\]|^[A-Za-z]:")
"""Characters that must not be in a path. They leave the directory on another system, control a terminal, or change the
direction of a line in the log. Halves of surrogate pairs cannot be in any file name.
"""
_LONGEST_PATH: Final = 1024
_LONGEST_PART: Final = 255


class RepoFile(Struct, frozen=True):
    """One file of a repository. `size` is in bytes, None if the listing does not say it.

    `blob` is the name of the content: the SHA-256 of a file in large file storage, the git object id of any other file.
    None if the listing does not say it.
    """

    path: str
    size: int | None = None
    blob: str | None = None

    @property
    def shown(self) -> str:
        """The path for messages, cut to a length."""
        return one_line(self.path)

    @property
    def sha256(self) -> str | None:
        """The hash that the content must have. None for a file outside large file storage."""
        return self.blob if self.blob is not None and _SHA256.fullmatch(self.blob) else None


class KnownFile(RepoFile, frozen=True):
    """A file with known size and blob, so that it can be fetched and checked."""

    size: int
    blob: str


def known(file: RepoFile) -> KnownFile | None:
    """The file as one that can be fetched. None unless the listing says everything, with a usable name of the blob."""
    if file.size is None or file.size < 0 or file.blob is None or not _BLOB.fullmatch(file.blob):
        return None
    return KnownFile(file.path, file.size, file.blob)


class Listing(Struct, frozen=True):
    """The files of a repository at one commit."""

    commit: str
    files: tuple[RepoFile, ...]


class HubRepository(Struct, frozen=True, kw_only=True):
    """One repository at one hub. `model_id` is its name in errors. `auth_env` says where the `token` comes from."""

    endpoint: str
    repo_id: str
    model_id: str
    cache_dir: Path
    revision: str = "main"
    auth_env: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return f"<HubRepository {self.model_id} at {self.endpoint}, revision {self.revision}>"


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes. A branch or a tag may change."""
    return _COMMIT.fullmatch(revision) is not None


def is_safe_path(path: str) -> bool:
    """Whether a path from a hub stays below the directory that it is joined to, on every file system."""
    parts = path.split("/")
    return (
        len(path) <= _LONGEST_PATH
        and not _UNSAFE.search(path)
        and all(part not in {"", ".", ".."} and len(part.encode(errors="replace")) <= _LONGEST_PART for part in parts)
        and not PurePosixPath(path).is_absolute()
    )
