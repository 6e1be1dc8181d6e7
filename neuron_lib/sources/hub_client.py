"""Questions to a hub that speaks the Hugging Face protocol. Blocking; used in the fetch process only.

The only importer of `huggingface_hub`, whose exceptions end here. What it does not do for us is in `download`: it
cannot go on with a file that an earlier process began, obeys a `Retry-After` of a day, has no lowest rate and hashes
nothing.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # imported lazily, which hides it

from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources.repository import HubRepository, Listing, RepoFile, is_commit

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

__all__ = ("Body", "HubClient")

_ANSWER_LIMIT_S: Final = 10.0
"""For a listing, and for each wait for more of a file."""
_TRANSIENT_STATUS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_KINDS: Final[tuple[tuple[type[Exception], PreflightKind], ...]] = (
    (GatedRepoError, PreflightKind.GATED_REPO),  # before the class it derives from
    (RepositoryNotFoundError, PreflightKind.REPO_NOT_FOUND),
    (RevisionNotFoundError, PreflightKind.REVISION_NOT_FOUND),
    (EntryNotFoundError, PreflightKind.FILE_NOT_FOUND),
)
_QUERY: Final = re.compile(r"\?[^\s'\"<>)]+")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Body:
    """A file on its way. It begins at `offset`, which is 0 for a hub that has ignored where we wanted to begin.

    `size` is that of the whole file, None where the hub does not say. Iterating `chunks` raises `SourceUnavailable`.
    """

    offset: int
    size: int | None
    chunks: Iterator[bytes]


class HubClient:
    """One repository at its hub. Thread-safe."""

    def __init__(self, repository: HubRepository) -> None:
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self._repository: Final = repository
        # False, not None: with None the token stored for one hub would be offered to another.
        self._token: Final = repository.token or False
        self._api: Final = HfApi(endpoint=repository.endpoint, token=self._token)
        self._headers: Final = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}

    def list_files(self) -> Listing:
        """Ask what the repository holds now. Raises `SourceUnavailable` or `PreflightFailed`."""
        with self._translated():
            answer = self._api.model_info(
                self._repository.repo_id,
                revision=self._repository.revision,
                files_metadata=True,
                timeout=_ANSWER_LIMIT_S,
            )
        if answer.sha is None or not is_commit(answer.sha):
            raise SourceUnavailable(
                f"{self._where}: the listing names no commit ({answer.sha!r})", model_id=self._repository.model_id
            )
        return Listing(answer.sha, tuple(_repo_file(sibling) for sibling in answer.siblings or ()))

    def complete(self, commit: str, file: RepoFile) -> RepoFile:
        """Ask for what a listing has left out about one file. Raises `SourceUnavailable` or `PreflightFailed`."""
        with self._translated():
            about = get_hf_file_metadata(self._url(commit, file.path), token=self._token, timeout=_ANSWER_LIMIT_S)
        if about.etag is None or about.size is None:
            raise SourceUnavailable(
                f"{self._where}: the hub tells neither ETag nor size of {file.path}", model_id=self._repository.model_id
            )
        return RepoFile(file.path, about.size, about.etag)

    @contextmanager
    def open_file(self, commit: str, path: str, *, offset: int = 0) -> Iterator[Body]:
        """Begin to read a file at `offset`. Raises `SourceUnavailable` or `PreflightFailed`."""
        headers = self._headers | ({"Range": f"bytes={offset}-"} if offset else {})
        with ExitStack() as held:
            with self._translated():
                response = held.enter_context(
                    get_session().stream("GET", self._url(commit, path), headers=headers, timeout=_ANSWER_LIMIT_S)
                )
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    body = Body(0, 0, iter(()))  # the file is shorter than what we have of it
                else:
                    hf_raise_for_status(response)
                    body = Body(*_extent(response), self._read(response))
            yield body

    def _read(self, response: Any) -> Iterator[bytes]:
        with self._translated():
            yield from response.iter_bytes()

    @property
    def _where(self) -> str:
        return f"{self._repository.model_id} at {self._repository.endpoint}"

    def _url(self, commit: str, path: str) -> str:
        return hf_hub_url(self._repository.repo_id, path, revision=commit, endpoint=self._repository.endpoint)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except NeuronError:
            raise
        except Exception as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> NeuronError:
        """Say what a failure means for the caller: fix something (the `LoadFailed` kinds), or try later."""
        model_id, text = self._repository.model_id, self._clean(error)
        if isinstance(error, HFValidationError):
            kind = PreflightKind.REPO_NOT_FOUND
            return PreflightFailed(kind, f"{self._where}: {text}", model_id=model_id, cause=text)
        if isinstance(error, HfHubHTTPError) and not _is_transient(error.response.status_code):
            token = f"the token in {self._repository.auth_env}" if self._repository.token else "no token"
            kind = next((k for kinds, k in _KINDS if isinstance(error, kinds)), PreflightKind.REPO_FETCH_FAILED)
            message = f"{self._where}, asked with {token}: {text}"
            return PreflightFailed(kind, message, model_id=model_id, cause=text)
        retry_after_s = _retry_after_s(error.response) if isinstance(error, HfHubHTTPError) else None
        return SourceUnavailable(f"{self._where}: {text}", model_id=model_id, retry_after_s=retry_after_s)

    def _clean(self, error: Exception) -> str:
        """The error's words on one line, without what must not be in a log: the token, and signatures in URLs."""
        text = _QUERY.sub("?…", " ".join(f"{type(error).__name__}: {error}".split()))
        return text.replace(self._repository.token, "…") if self._repository.token else text


def _repo_file(sibling: "RepoSibling") -> RepoFile:
    if sibling.lfs is not None:
        return RepoFile(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256)
    return RepoFile(sibling.rfilename, sibling.size, sibling.blob_id)


def _extent(response: Any) -> tuple[int, int | None]:
    """Where a body begins, and how long the whole file is."""
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise ValueError(f"a part of a file comes with Content-Range {response.headers.get('Content-Range')!r}")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() and "Content-Encoding" not in response.headers else None


def _is_transient(status: int) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT_STATUS


def _retry_after_s(response: Any) -> int | None:
    text = response.headers.get("Retry-After", "")
    return int(text) if text.isdecimal() and len(text) < 9 else None
