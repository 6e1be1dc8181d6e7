"""Asks a hub that speaks the Hugging Face protocol. Blocking. Used in the fetch process only.

The only module that imports `huggingface_hub`. It uses the client of that library with its proxies and certificates,
the headers and the addresses. It does not use the downloader (see `download`). Statuses and errors are put into words
here, and every answer of a hub is bounded.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import msgspec
from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # imported lazily, which hides them
    build_hf_headers,
    validate_repo_id,
)

from neuron_lib.errors import NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources.foreign_text import Redaction, one_line
from neuron_lib.sources.hub_answer import AnswerTooLong, read_bytes, read_start, read_whole
from neuron_lib.sources.hub_listing import LONGEST_LISTING_BYTES, MalformedListing, parse_listing
from neuron_lib.sources.hub_token import usable_token
from neuron_lib.sources.repository import HubRepository, Listing, RepoFile

__all__ = ("Body", "HubClient")

_ANSWER_LIMIT_S: Final = 10.0
"""Seconds for the head of an answer, and for each wait for more of its body."""
_LISTING_LIMIT_S: Final = 50.0
"""Seconds for the whole body of a listing. Three tries end before the daemon takes the process for one that hangs."""
_LONGEST_ERROR_BYTES: Final = 1 << 14
_ERROR_LIMIT_S: Final = 5.0
_MOST_REDIRECTS: Final = 10
_TRANSIENT_STATUS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_REFUSALS: Final[Mapping[str, tuple[PreflightKind, str]]] = {
    "GatedRepo": (PreflightKind.GATED_REPO, "the owner of the repository must grant access to it first"),
    "RepoNotFound": (PreflightKind.REPO_NOT_FOUND, "there is no such repository, or it is private"),
    "RevisionNotFound": (PreflightKind.REVISION_NOT_FOUND, "the repository has no branch, tag or commit"),
    "EntryNotFound": (PreflightKind.FILE_NOT_FOUND, "the repository has no such file"),
}
"""The meaning of the protocol's error codes."""
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Body:
    """A file that is being received. It begins at `offset`, which is 0 if the hub has ignored the offset that was asked
    for.

    `size` is the size of the whole file in bytes, None if the hub does not say it. Iterating `chunks` raises
    `SourceUnavailable`.
    """

    offset: int
    size: int | None
    chunks: Iterator[bytes]


class _Refused(Exception):
    """An answer with the status of an error. `words` is the hub's own text, unchanged."""

    def __init__(self, status: int, headers: Mapping[str, str], words: str) -> None:
        super().__init__(status)
        self.status: Final = status
        self.headers: Final = headers
        self.words: Final = words


class HubClient:
    """One repository at its hub. Thread-safe. Blocking."""

    def __init__(self, repository: HubRepository) -> None:
        """Raises `PreflightFailed` for a token that cannot be sent."""
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self._repository: Final = repository
        self._clean: Final = Redaction(repository.token)
        token = usable_token(repository.token, place=repository.auth_env, model_id=repository.model_id)
        # False and not None: with None the token stored for one hub would be sent to another.
        self._headers: Final = build_hf_headers(token=token or False) | {"Accept-Encoding": "identity"}

    def list_files(self) -> Listing:
        """Ask for the files of the repository at this moment. Raises `SourceUnavailable` or `PreflightFailed`."""
        repository = self._repository
        revision = quote(repository.revision, safe="")
        with self._translated():
            validate_repo_id(repository.repo_id)
            url = f"{repository.endpoint}/api/models/{repository.repo_id}/revision/{revision}"
            with self._asked("GET", url, params={"blobs": "true"}) as response:
                document = read_whole(response, limit_bytes=LONGEST_LISTING_BYTES, limit_s=_LISTING_LIMIT_S)
            return parse_listing(document)

    def complete(self, commit: str, file: RepoFile) -> RepoFile:
        """Ask for the size and the blob of one file that a listing has left out. Raises `SourceUnavailable` or
        `PreflightFailed`.
        """
        with self._translated():
            headers = self._head(self._url(commit, file.path))
        etag = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
        length = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
        blob = etag.removeprefix("W/").strip('"')
        if not blob or not _is_size(length):
            raise SourceUnavailable(
                f"{self._where}: the hub tells neither ETag nor size of {file.shown}",
                model_id=self._repository.model_id,
            )
        return RepoFile(file.path, int(length), blob)

    @contextmanager
    def open_file(self, commit: str, path: str, *, offset: int = 0, count: int | None = None) -> Iterator[Body]:
        """Begin to read a file at `offset`, as far as its end or `count` bytes. A hub may send more.

        Raises `SourceUnavailable` or `PreflightFailed`.
        """
        last = "" if count is None else offset + count - 1
        headers = {"Range": f"bytes={offset}-{last}"} if offset or count is not None else {}
        with ExitStack() as held:
            with self._translated():
                try:
                    response = held.enter_context(self._asked("GET", self._url(commit, path), headers=headers))
                    body = Body(*_extent(response), self._read(response))
                except _Refused as refused:
                    if refused.status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                        raise
                    body = Body(0, 0, iter(()))  # the file is shorter than `offset`
            yield body

    def _read(self, response: Any) -> Iterator[bytes]:
        with self._translated():
            yield from read_bytes(response)

    @contextmanager
    def _asked(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> Iterator[Any]:
        """The answer to one request. Its body has not been read yet. Raises `_Refused`."""
        sent = self._headers | dict(headers or {})
        with get_session().stream(method, url, headers=sent, timeout=_ANSWER_LIMIT_S, **options) as response:
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                raise _Refused(response.status_code, response.headers, _words(response))
            yield response

    def _head(self, url: str) -> Mapping[str, str]:
        """The hub's facts about a file. They are in the hub's own answer, also if that redirects to another place for
        the bytes.

        A redirect within the hub, as for a repository that was renamed, is followed. The token is sent nowhere else.
        """
        for _ in range(_MOST_REDIRECTS):
            with self._asked("HEAD", url, follow_redirects=False) as response:
                headers: Mapping[str, str] = response.headers
            target = urljoin(url, headers.get("Location", ""))
            if not response.has_redirect_location or "X-Linked-Etag" in headers or _origin(target) != _origin(url):
                return headers
            url = target
        raise ValueError("too many redirects")

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
        except Exception as error:  # noqa: BLE001 - whatever a client or a hub's answer raises
            # Not `from error`: a printed chain would show what the error says about the request.
            raise self._translate(error) from None

    def _translate(self, error: Exception) -> NeuronError:
        """The error that a failure means for the caller: something to fix (a kind of `LoadFailed`), or something to try
        later.
        """
        match error:
            case _Refused():
                return self._translate_refusal(error)
            case HFValidationError():
                return self._final(PreflightKind.REPO_NOT_FOUND, "its name cannot be that of a repository on a hub")
            case MalformedListing() | AnswerTooLong():
                return self._final(PreflightKind.REPO_FETCH_FAILED, f"the hub's listing is malformed: {error}")
            case msgspec.DecodeError():
                text = f"the hub's listing is no JSON: {error}"
            case UnicodeError():  # our own request; another try would end in the same way
                text = f"a request cannot be written: {type(error).__name__}"
                return self._final(PreflightKind.REPO_FETCH_FAILED, text)
            case _:
                text = f"{type(error).__name__}: {error}"
        return SourceUnavailable(f"{self._where}: {self._shown(text)}", model_id=self._repository.model_id)

    def _translate_refusal(self, refused: _Refused) -> NeuronError:
        status = f"status {refused.status} {_phrase(refused.status)}".rstrip()
        words = self._shown(refused.words)
        said = f"{status}: {words}" if words else status
        if refused.status >= HTTPStatus.INTERNAL_SERVER_ERROR or refused.status in _TRANSIENT_STATUS:
            return SourceUnavailable(
                f"{self._where}: {said}",
                model_id=self._repository.model_id,
                retry_after_s=_retry_after_s(refused.headers),
            )
        code = "RepoNotFound" if self._hides_something(refused) else refused.headers.get("X-Error-Code", "")
        kind, meaning = _REFUSALS.get(code, (PreflightKind.REPO_FETCH_FAILED, said))
        if kind is PreflightKind.REVISION_NOT_FOUND:
            meaning = f"{meaning} {self._repository.revision!r}"
        return self._final(kind, meaning, asked=f", asked with {self._credentials}")

    def _hides_something(self, refused: _Refused) -> bool:
        """Whether this is a 401 without a code. Hugging Face sends it for missing things and for things hidden from the
        token.
        """
        message = refused.headers.get("X-Error-Message")
        is_named = message is not None or self._repository.endpoint.startswith("https://")
        is_about_token = message == "Invalid credentials in Authorization header"
        return (
            refused.status == HTTPStatus.UNAUTHORIZED
            and "X-Error-Code" not in refused.headers
            and is_named
            and not is_about_token
        )

    @property
    def _credentials(self) -> str:
        place = self._repository.auth_env
        if self._repository.token:
            return f"the token in {place}"
        return "no token" if place is None else f"no token (there is none in {place})"

    def _final(self, kind: PreflightKind, text: str, *, asked: str = "") -> PreflightFailed:
        cause = self._shown(text)
        return PreflightFailed(kind, f"{self._where}{asked}: {cause}", model_id=self._repository.model_id, cause=cause)

    def _shown(self, text: str) -> str:
        return one_line(self._clean(text))


def _words(response: Any) -> str:
    """The hub's own text about an error, if it is in the protocol's form. A page made for people is not taken."""
    if said := response.headers.get("X-Error-Message"):
        return str(said)
    if "html" in response.headers.get("Content-Type", "").lower():
        return ""
    try:
        start = read_start(response, limit_bytes=_LONGEST_ERROR_BYTES, limit_s=_ERROR_LIMIT_S)
    except Exception:  # noqa: BLE001 - the status says enough
        return ""
    try:
        said = msgspec.json.decode(start, type=dict[str, Any]).get("error")
    except (ValueError, RecursionError):
        return start.decode("utf-8", "replace")
    return said if isinstance(said, str) else ""


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _extent(response: Any) -> tuple[int, int | None]:
    """The offset at which a body begins, and the size of the whole file."""
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise ValueError(f"a part of a file comes with Content-Range {response.headers.get('Content-Range')!r}")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if _is_size(length) and "Content-Encoding" not in response.headers else None


def _retry_after_s(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Retry-After", "")
    return int(text) if text.isdecimal() and len(text) < 9 else None
