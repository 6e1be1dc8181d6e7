"""Files as a hub knows them: their bytes, in memory or on disk, their hashes, and their entries in listings."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

__all__ = ("Blob", "Body", "Content", "Files", "Part", "blob_of", "cut_out", "sibling", "tree_entry")

Content = bytes | Path
Files = Mapping[str, Content]

_LARGE_BYTES: Final = 1 << 20


class Part(Struct, frozen=True):
    """The bytes from `start` to `stop` of a file on disk."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(len(self))


Body = bytes | Part


class Blob(Struct, frozen=True):
    """The identity of a file's bytes. `lfs` is what large file storage knows of it; None if git keeps it itself."""

    size: int
    git_oid: str
    lfs: dict[str, Any] | None = None

    @property
    def etag(self) -> str:
        return f'"{self.lfs["sha256"] if self.lfs else self.git_oid}"'


def blob_of(name: str, content: Content) -> Blob:
    """Hash a file as a hub does: GGUF files and large ones for large file storage, others for git."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if name.lower().endswith(".gguf") or size > _LARGE_BYTES:
        return _large_blob(content, size, 0 if isinstance(content, bytes) else content.stat().st_mtime_ns)
    return Blob(size, _git_oid(content if isinstance(content, bytes) else content.read_bytes()))


@cache
def _large_blob(content: Content, size: int, modified_ns: int) -> Blob:
    """Hash once. `modified_ns` tells the versions of a file on disk apart."""
    if isinstance(content, bytes):
        sha256 = hashlib.sha256(content).hexdigest()
    else:
        with content.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return Blob(size, _git_oid(pointer), {"sha256": sha256, "size": size, "pointerSize": len(pointer)})


def _git_oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(body), body), usedforsecurity=False).hexdigest()


def cut_out(content: Content, start: int, stop: int) -> Body:
    """Return the bytes from `start` to `stop`."""
    return content[start:stop] if isinstance(content, bytes) else Part(content, start, stop)


def sibling(name: str, content: Content) -> dict[str, Any]:
    """Describe a file as `GET /api/models/…?blobs=true` does."""
    blob = blob_of(name, content)
    known = {"rfilename": name, "size": blob.size, "blobId": blob.git_oid}
    return known | {"lfs": blob.lfs} if blob.lfs else known


def tree_entry(name: str, content: Content) -> dict[str, Any]:
    """Describe a file as `GET /api/models/…/tree/…` does."""
    blob = blob_of(name, content)
    known = {"type": "file", "path": name, "size": blob.size, "oid": blob.git_oid}
    if blob.lfs:
        known["lfs"] = {("oid" if key == "sha256" else key): value for key, value in blob.lfs.items()}
    return known
