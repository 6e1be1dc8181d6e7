"""Repositories on a hub that speaks the Hugging Face protocol, and their copies in its cache. Blocking.

The only importer of `huggingface_hub`, and only when a hub is really asked; its exceptions end here.
"""

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from neuron_lib.errors import LoadFailed, NeuronError, PreflightFailed, PreflightKind, SourceUnavailable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ("HubRepository", "Listing", "download", "list_cached", "list_repository")

_LISTING_TIMEOUT_S: Final = 10.0
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_TRANSIENT_STATUS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_DISK_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, slots=True)
class HubRepository:
    """One repository at one hub. `model_id` names it in errors; `auth_env` tells where the `token` came from."""

    endpoint: str
    repo_id: str
    model_id: str
    cache_dir: Path
    revision: str = "main"
    auth_env: str | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """Where the hub's cache layout keeps this repository."""
        return self.cache_dir / f"models--{self.repo_id.replace('/', '--')}"


class Listing(Struct, frozen=True):
    """The files of a repository at one commit."""

    commit: str
    files: tuple[str, ...]


def list_repository(repository: HubRepository) -> Listing:
    """Ask the hub what the repository holds now. Raises `SourceUnavailable` or `PreflightFailed`."""
    try:
        answer = _client(repository).model_info(
            repository.repo_id, revision=repository.revision, timeout=_LISTING_TIMEOUT_S
        )
    except Exception as error:
        raise _translate(error, repository) from error
    files = tuple(sibling.rfilename for sibling in answer.siblings or ())
    return Listing(answer.sha or repository.revision, files)


def list_cached(repository: HubRepository) -> Listing | None:
    """List what the cache holds of the repository's last downloaded commit; None if that is nothing.

    A link without its blob counts as missing (contract §3.2).
    """
    commit = repository.revision
    try:
        if not _COMMIT.fullmatch(commit):
            commit = (repository.folder / "refs" / commit).read_text("ascii").strip()
        if not _COMMIT.fullmatch(commit):
            return None
        snapshot = repository.folder / "snapshots" / commit
        files = tuple(sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()))
    except (OSError, ValueError):
        return None
    return Listing(commit, files) if files else None


def download(repository: HubRepository, commit: str, files: Sequence[str]) -> Path:
    """Bring `files` of one commit into the cache, unless they are there, and return the path of the first.

    Files that are there cost no request. Raises `SourceUnavailable`, `PreflightFailed`, or `LoadFailed` when the cache
    cannot be written.
    """
    try:
        client = _client(repository)
        paths = [
            client.hf_hub_download(repository.repo_id, file, revision=commit, cache_dir=repository.cache_dir)
            for file in files
        ]
        _remember(repository, commit)
    except Exception as error:
        raise _translate(error, repository) from error
    return Path(paths[0])


def _remember(repository: HubRepository, commit: str) -> None:
    """Note which commit a branch means offline: only now that its files are here, and only if the cache lets us."""
    ref = repository.folder / "refs" / repository.revision
    if _COMMIT.fullmatch(commit) and commit != repository.revision:
        with contextlib.suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit, "ascii")


def _client(repository: HubRepository) -> "HfApi":
    from huggingface_hub import HfApi, constants  # noqa: PLC0415 - slow to import, often not needed
    from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 - as above

    # Set here and not by environment variable: those are read at import, which the embedding program may have done.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    # False, not None: with None the token stored for one hub would be offered to another.
    return HfApi(endpoint=repository.endpoint, token=repository.token or False)


def _translate(error: Exception, repository: HubRepository) -> NeuronError:
    """Say what a failure means for the caller: fix something (the `LoadFailed` kinds), or try later."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415 - as above

    where, model_id = f"{repository.model_id} at {repository.endpoint}", repository.model_id
    for cause in _causes(error):  # "not in the cache" hides, one cause deeper, why the hub did not answer
        text = " ".join(f"{type(cause).__name__}: {cause}".split())
        if isinstance(cause, HfHubHTTPError) and not _is_transient(cause.response.status_code):
            token = f"the token in {repository.auth_env}" if repository.token else "no token"
            message = f"{where}, asked with {token}: {text}"
            return PreflightFailed(PreflightKind.REPO_FETCH_FAILED, message, model_id=model_id, cause=text)
        if isinstance(cause, HFValidationError):
            return PreflightFailed(PreflightKind.REPO_FETCH_FAILED, f"{where}: {text}", model_id=model_id, cause=text)
        # An error that names a file is of the disk, not of a socket.
        if isinstance(cause, OSError) and (cause.filename is not None or cause.errno in _DISK_ERRORS):
            return LoadFailed(f"{where}: cannot write below {repository.cache_dir}: {text}", model_id=model_id)
    reasons = [" ".join(str(cause).split()) or type(cause).__name__ for cause in _causes(error)]
    return SourceUnavailable(f"{where}: {reasons[-1]}", model_id=model_id)


def _is_transient(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT_STATUS


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
