"""A cache of models as tests need it: orders for it, files put into it, and what must hold in it after any fault."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from neuron_lib.config import DownloadConfig
from neuron_lib.sources.fetch_protocol import FetchOrder
from neuron_lib.sources.hub_cache import (
    blob_path,
    link_snapshot,
    list_repositories,
    mark_verified,
    remember_commit,
    repository_folder,
)
from neuron_lib.sources.repository import HubRepository, KnownFile

__all__ = ("COMMIT", "REPOSITORY", "assert_sound", "children", "known_file", "order_for", "put", "repository_in")

REPOSITORY = "org/name"
COMMIT = "c" * 40


def repository_in(cache: Path, *, endpoint: str = "http://127.0.0.1:9", **changes: Any) -> HubRepository:
    values = {"repo_id": REPOSITORY, "model_id": f"huggingface:{REPOSITORY}", "auth_env": "HUB_TOKEN"} | changes
    return HubRepository(endpoint=endpoint, cache_dir=cache, **values)


def order_for(repository: HubRepository, *, limits: DownloadConfig | None = None, **changes: Any) -> FetchOrder:
    return FetchOrder(repository=repository, limits=limits or DownloadConfig(), **changes)


def known_file(content: bytes, path: str = "m.gguf") -> KnownFile:
    return KnownFile(path, len(content), hashlib.sha256(content).hexdigest())


def put(cache: Path, files: Mapping[str, bytes], *, commit: str = COMMIT, is_hashed: bool = True) -> list[Path]:
    """Put files into the cache as the head of `main`, and as if we had hashed them or not; returns where they are."""
    repository = repository_in(cache)
    folder, paths = repository_folder(repository), []
    for name, content in files.items():
        file = known_file(content, name)
        blob = blob_path(folder, file.blob)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        if is_hashed:
            mark_verified(folder, file.blob)
        paths.append(link_snapshot(folder, commit, file))
    remember_commit(repository, commit)
    return paths


def assert_sound(cache: Path) -> None:
    """What is reachable as a file of a model is what its name says, and nobody is still writing."""
    assert not children()
    for repository in list_repositories(cache):
        for listing in repository.listings:
            for file in listing.files:
                content = (repository.folder / "snapshots" / listing.commit / file.path).read_bytes()
                assert file.blob == hashlib.sha256(content).hexdigest()


def children() -> set[int]:
    """The processes this one has started and not yet seen end, zombies included."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            # pid (name) state parent …; the name may hold anything
            parent = directory.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.add(int(directory.name))
    return found
