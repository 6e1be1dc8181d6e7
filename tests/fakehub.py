"""A hub on loopback that speaks as much of the Hugging Face protocol as its client needs, and fails on demand.

In tests `with fake_hub({"org/name": {"m.gguf": b"GGUF"}}) as hub: hub.fail(Cut(2), times=1)`; by hand
`python -m tests.fakehub org/name=m.gguf --fault cut:2@1`. Writes nothing to disk. Only `Drip` knows a clock.
"""

import argparse
import fnmatch
import gzip
import hashlib
import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from msgspec import Struct

__all__ = (
    "BadContentRange",
    "Chunked",
    "Corrupt",
    "Cut",
    "Drip",
    "EtagChange",
    "Exchange",
    "FakeHub",
    "Fault",
    "Gzip",
    "Moves",
    "NeverAnswers",
    "NoRange",
    "Redirect",
    "Stall",
    "Status",
    "WrongLength",
    "fake_hub",
    "hostile_files",
)

PATIENCE_S = 30
SENT_AT_ONCE_BYTES = 4 << 20
LFS_FROM_BYTES = 1 << 20
BEFORE_THE_STATUS = -1

LISTING = re.compile(r"/api/models/(?P<repository>.+?)(/(?P<view>revision|tree)/(?P<revision>[^/]+))?/?")
FILE = re.compile(r"(/cdn)?/(?P<repository>.+?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")


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


Content = bytes | Path
Files = Mapping[str, Content]
Body = bytes | Part


class Blob(Struct, frozen=True):
    """What a hub knows of a file without opening it. `sha256` is None for a file kept in git itself."""

    size: int
    git_oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return f'"{self.sha256 or self.git_oid}"'


@dataclass(slots=True, eq=False)
class Exchange:
    """A request and what became of it. `path` is unquoted and without query; `status` is 0 until there is one."""

    origin: str
    method: str
    target: str
    headers: Message
    status: int = 0
    sent_bytes: int = 0

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def authorization(self) -> str | None:
        return self.headers["Authorization"]

    @property
    def range(self) -> str | None:
        return self.headers["Range"]

    def __str__(self) -> str:
        asked = f"{self.origin} {self.method} {self.target}"
        notes = f"{f' {self.range}' if self.range else ''}{' with a token' if self.authorization else ''}"
        return f"{asked}{notes} -> {self.status or 'no answer'}, {self.sent_bytes} bytes"


@dataclass(slots=True)
class Answer:
    """What to say, for faults to change. `whole` is what `body` may be a part of; `None` for a delivery means never."""

    asked: Exchange
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = b""
    whole: Body = b""
    cut_after: int | None = None
    hold_after: int | None = None
    bytes_per_s: int | None = None

    def read(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else self.body.read()


# -------------------------------------------------------------------------------------------------------- faults


class Fault(Struct, frozen=True):
    """Something that goes wrong with an answer. `path` is the pattern of paths it concerns unless told otherwise."""

    path: ClassVar[str] = "*"

    def touches(self, answer: Answer) -> bool:
        return True

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        raise NotImplementedError


class Status(Fault, frozen=True):
    """Another status, with these headers and a short body."""

    status: int
    headers: Mapping[str, str] = {}

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.status, answer.headers = self.status, dict(self.headers)
        answer.body = b"" if self.status < HTTPStatus.BAD_REQUEST else b'{"error":"on demand"}'


class Redirect(Fault, frozen=True):
    """A redirect; `{path}` in `location` stands for the path asked for, so that `{path}` alone is a loop."""

    location: str
    path = "*/resolve/*"

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.status, answer.body = HTTPStatus.FOUND, b""
        answer.headers["Location"] = self.location.replace("{path}", quote(answer.asked.path))


class NeverAnswers(Fault, frozen=True):
    """Takes the request and says nothing until the hub's `release`."""

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.hold_after = BEFORE_THE_STATUS


class Moves(Fault, frozen=True):
    """`main` moves on once it has been listed; every file of the new commit holds other bytes."""

    path = "/api/*"

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        for repository, files in list(hub.repositories.items()):
            if answer.asked.path.startswith(f"/api/models/{repository}"):
                hub.push(repository, dict.fromkeys(files, b"bytes of a later commit"))


class BodyFault(Fault, frozen=True):
    """Concerns the bytes of a file, whoever sends them: the hub or its CDN."""

    path = "*/resolve/*"

    def touches(self, answer: Answer) -> bool:
        return answer.asked.method == "GET" and answer.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}


class Cut(BodyFault, frozen=True):
    """The connection ends after so many bytes of the body."""

    after_bytes: int

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.cut_after = self.after_bytes


class Stall(BodyFault, frozen=True):
    """Nothing more comes after so many bytes of the body, until the hub's `release`."""

    after_bytes: int

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.hold_after = self.after_bytes


class Drip(BodyFault, frozen=True):
    """The body comes slowly."""

    bytes_per_s: int

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.bytes_per_s = self.bytes_per_s


class Corrupt(BodyFault, frozen=True):
    """As many bytes as there should be, the last one wrong."""

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        body = answer.read()
        answer.body = body[:-1] + bytes([body[-1] ^ 0xFF])


class WrongLength(BodyFault, frozen=True):
    """A body longer than the file, or shorter, with the Content-Length that belongs to it."""

    extra_bytes: int = 1

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        body = answer.read()
        answer.body = body[: self.extra_bytes] if self.extra_bytes < 0 else body + bytes(self.extra_bytes)


class Gzip(BodyFault, frozen=True):
    """The body comes compressed, whatever the client accepts."""

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.headers["Content-Encoding"] = "gzip"
        answer.body = gzip.compress(answer.read(), mtime=0)


class Chunked(BodyFault, frozen=True):
    """The body comes in one chunk, without a Content-Length."""

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        body = answer.read()
        answer.headers["Transfer-Encoding"] = "chunked"
        answer.body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


class EtagChange(BodyFault, frozen=True):
    """The bytes come with another ETag than the one announced."""

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.headers |= dict.fromkeys(answer.headers.keys() & {"ETag", "X-Linked-Etag"}, f'"{"e" * 64}"')


class NoRange(BodyFault, frozen=True):
    """The whole file comes, whatever part was asked for."""

    def touches(self, answer: Answer) -> bool:
        return answer.asked.range is not None

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        answer.status, answer.body = HTTPStatus.OK, answer.whole
        answer.headers.pop("Content-Range", None)


class BadContentRange(BodyFault, frozen=True):
    """The part asked for comes, announced as one that begins a byte later."""

    def touches(self, answer: Answer) -> bool:
        return answer.status == HTTPStatus.PARTIAL_CONTENT

    def spoil(self, answer: Answer, hub: "FakeHub") -> None:
        first, _, rest = answer.headers["Content-Range"].removeprefix("bytes ").partition("-")
        answer.headers["Content-Range"] = f"bytes {int(first) + 1}-{rest}"


def hostile_files() -> dict[str, bytes]:
    """Files to put into a repository that no client should trust: paths that climb, that are too long, too many."""
    names = [
        "../../x.gguf",
        "/x.gguf",
        "a/../../x.gguf",
        "..\\x.gguf",
        "C:x.gguf",
        "a//x.gguf",
        ".",
        f"{'x' * 300}.gguf",
    ]
    return dict.fromkeys([*names, *(f"{i:04}.bin" for i in range(5000))], b"hostile")


GATED = Status(403, {"X-Error-Code": "GatedRepo"})
NO_FILE = Status(404, {"X-Error-Code": "EntryNotFound"})
NO_REPOSITORY = Status(404, {"X-Error-Code": "RepoNotFound"})
NO_REVISION = Status(404, {"X-Error-Code": "RevisionNotFound"})
NO_TOKEN = Status(401, {"X-Error-Code": "RepoNotFound"})

KINDS: Mapping[str, Callable[[str], Fault]] = {
    "bad_content_range": lambda _: BadContentRange(),
    "chunked": lambda _: Chunked(),
    "corrupt": lambda _: Corrupt(),
    "cut": lambda after: Cut(int(after)),
    "drip": lambda rate: Drip(int(rate)),
    "etag_change": lambda _: EtagChange(),
    "gated": lambda _: GATED,
    "gzip": lambda _: Gzip(),
    "loop": lambda _: Redirect("{path}"),
    "moves": lambda _: Moves(),
    "never_answers": lambda _: NeverAnswers(),
    "no_file": lambda _: NO_FILE,
    "no_range": lambda _: NoRange(),
    "no_repository": lambda _: NO_REPOSITORY,
    "no_revision": lambda _: NO_REVISION,
    "redirect": Redirect,
    "stall": lambda after: Stall(int(after)),
    "wrong_length": lambda extra: WrongLength(int(extra or 1)),
}


def parse_fault(text: str) -> Fault:
    """Read `KIND[:ARG]`: a key of `KINDS`, or a status with the seconds of its Retry-After. Raises `ValueError`."""
    kind, _, argument = text.partition(":")
    if kind.isdecimal():
        return Status(int(kind), {"Retry-After": argument} if argument else {})
    if kind not in KINDS:
        raise ValueError(f"unknown fault {kind!r}; known: a status, {', '.join(KINDS)}")
    return KINDS[kind](argument)


# ----------------------------------------------------------------------------------------------------------- hub


@dataclass(slots=True, eq=False)
class Rule:
    """A fault, where it strikes, and how many times it still does; None means always."""

    fault: Fault
    path: str
    times_left: int | None


@dataclass(slots=True, eq=False)
class FakeHub:
    """What the hub holds, how it fails, and what it saw. Safe to use from any thread.

    `repositories` are the files at the head of `main`, whose commit is `commit` in every repository; further branches
    and commits come by `push`. `fault` fails every request: a status, or the text of a `--fault`. `log` has every
    request in order of arrival, `requests` their `METHOD path`. While `may_answer` is cleared no request is answered;
    `is_asked` is set by the first.
    """

    repositories: dict[str, dict[str, Content]]
    token: str | None = None
    private: frozenset[str] = frozenset()
    gated: frozenset[str] = frozenset()
    url: str = ""
    cdn_url: str | None = None
    commit: str = "a" * 40
    fault: int | str | None = None
    requests: list[str] = field(default_factory=list)
    log: list[Exchange] = field(default_factory=list)
    held: int = 0
    may_answer: threading.Event = field(default_factory=threading.Event)
    is_asked: threading.Event = field(default_factory=threading.Event)
    report: Callable[[Exchange], None] | None = None
    _rules: list[Rule] = field(default_factory=list)
    _branches: dict[tuple[str, str], str] = field(default_factory=dict)
    _history: dict[tuple[str, str], Files] = field(default_factory=dict)
    _released: threading.Event = field(default_factory=threading.Event)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ports: dict[str, int] = field(default_factory=dict)
    _origins: list["Origin"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_answer.set()

    @property
    def tokens(self) -> list[str | None]:
        """The Authorization header of each request."""
        return [asked.authorization for asked in self.log]

    def fail(self, fault: Fault, *, path: str | None = None, times: int | None = None) -> None:
        """From now on spoil the answers for paths like `path`, the first `times` times or always.

        Several faults may spoil one answer, in the order in which they were added.
        """
        with self._changed:
            self._rules.append(Rule(fault, path or fault.path, times))

    def heal(self) -> None:
        """Forget all faults."""
        with self._changed:
            self.fault = None
            self._rules.clear()

    def push(self, repository: str, files: Files, *, branch: str = "main") -> str:
        """Make `files` the head of a branch, and return its commit; what was the head stays under its commit."""
        with self._changed:
            commit = f"{len(self._history) + 1:040x}"
            if branch == "main":
                self._history |= {(name, self.commit): dict(tree) for name, tree in self.repositories.items()}
                self.repositories[repository], self.commit = dict(files), commit
            else:
                self._history[repository, commit] = dict(files)
                self._branches[repository, branch] = commit
            return commit

    def release(self) -> None:
        """Let the answers go on that `Stall` and `NeverAnswers` hold, and hold none from now on."""
        self._released.set()
        self.may_answer.set()

    def wait_asked(self, requests: int = 1) -> None:
        """Block until so many requests have come."""
        self.wait_until(lambda: len(self.log) >= requests)

    def wait_held(self, answers: int = 1) -> None:
        """Block until so many answers have been held by a `Stall` or `NeverAnswers`."""
        self.wait_until(lambda: self.held >= answers)

    def wait_until(self, predicate: Callable[[], bool]) -> None:
        """Block until `predicate` holds, looking whenever the log changes. Raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(predicate, PATIENCE_S):
                raise TimeoutError(f"in vain; the hub saw {[str(asked) for asked in self.log]}")

    def up(self) -> None:
        """Listen, on the same ports as before."""
        self._origins = [Origin(self, name, port) for name, port in self._ports.items()]
        self._ports = {origin.name: origin.server_port for origin in self._origins}

    def down(self) -> None:
        """Close the ports and every connection."""
        for origin in self._origins:
            origin.stop()
        self._origins.clear()

    def note(self, asked: Exchange) -> None:
        """Enter a request into the log."""
        with self._changed:
            self.log.append(asked)
            self.requests.append(f"{asked.method} {asked.path}")
            self.is_asked.set()
            self._changed.notify_all()

    def note_sent(self, asked: Exchange, sent_bytes: int) -> None:
        """Count bytes of an answer's body."""
        with self._changed:
            asked.sent_bytes += sent_bytes
            self._changed.notify_all()

    def hold(self) -> None:
        """Wait for `release`."""
        with self._changed:
            self.held += 1
            self._changed.notify_all()
        self._released.wait()

    def answer(self, asked: Exchange) -> Answer:
        """What there is to say, faults included."""
        with self._changed:
            answer = self._true_answer(asked)
            for rule in self._rules:
                if rule.times_left != 0 and fnmatch.fnmatchcase(asked.path, rule.path) and rule.fault.touches(answer):
                    rule.times_left = rule.times_left and rule.times_left - 1
                    rule.fault.spoil(answer, self)
            if self.fault is not None:
                parse_fault(str(self.fault)).spoil(answer, self)
            asked.status = answer.status
            return answer

    def _true_answer(self, asked: Exchange) -> Answer:
        target, _, query = asked.target.partition("?")
        place = LISTING.fullmatch(target) or FILE.fullmatch(target)
        parts = {name: unquote(text) for name, text in (place.groupdict("") if place else {}).items()}
        repository, revision, file = parts.get("repository", ""), parts.get("revision"), parts.get("file")
        commit, files = self._tree(repository, revision or "main")
        if refusal := self._refusal(asked, repository, files, file):
            answer = Answer(asked)
            refusal.spoil(answer, self)
            return answer
        assert files is not None
        if file is None:
            view = (
                tree if parts["view"] == "tree" else partial(listing, repository, commit, "blobs=true" in query.lower())
            )
            body = json.dumps(view(files)).encode()
            return Answer(asked, headers={"Content-Type": "application/json"}, body=body, whole=body)
        return self._file(asked, f"/{repository}/resolve/{commit}/{quote(file)}", commit, file, files[file])

    def _tree(self, repository: str, revision: str) -> tuple[str, Files | None]:
        if revision in {"main", self.commit}:
            return self.commit, self.repositories.get(repository)
        commit = self._branches.get((repository, revision), revision)
        return commit, self._history.get((repository, commit))

    def _refusal(self, asked: Exchange, repository: str, files: Files | None, file: str | None) -> Status | None:
        is_granted = asked.origin == "cdn" or (self.token and asked.authorization == f"Bearer {self.token}")
        if repository in self.private and not is_granted:
            return NO_TOKEN
        if repository not in self.repositories:
            return NO_REPOSITORY
        if files is None:
            return NO_REVISION
        if file is not None and repository in self.gated and not is_granted:
            return GATED
        return NO_FILE if file is not None and file not in files else None

    def _file(self, asked: Exchange, place: str, commit: str, name: str, content: Content) -> Answer:
        blob = blob_of(name, content)
        answer = Answer(asked, headers={"X-Repo-Commit": commit, "ETag": blob.etag, "Accept-Ranges": "bytes"})
        if blob.sha256:
            answer.headers |= {"X-Linked-Etag": blob.etag, "X-Linked-Size": str(blob.size)}
            if self.cdn_url and asked.origin == "hub":
                answer.status = HTTPStatus.FOUND
                answer.headers["Location"] = f"{self.cdn_url}/cdn{place}?signature=fake"
                return answer
        answer.body = answer.whole = cut_out(content, 0, blob.size)
        wanted = RANGE.fullmatch(asked.range or "")
        if wanted and asked.headers.get("If-Range", blob.etag) == blob.etag:
            first, last = int(wanted["first"]), min(int(wanted["last"] or blob.size), blob.size - 1)
            if first > last:
                answer.status, answer.body = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b""
                answer.headers["Content-Range"] = f"bytes */{blob.size}"
            else:
                answer.status, answer.body = HTTPStatus.PARTIAL_CONTENT, cut_out(content, first, last + 1)
                answer.headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
        return answer


@contextmanager
def fake_hub(
    repositories: Mapping[str, Files],
    *,
    cdn: bool = False,
    token: str | None = None,
    private: Iterable[str] = (),
    gated: Iterable[str] = (),
    port: int = 0,
) -> Iterator[FakeHub]:
    """Serve `{"org/name": {"file": content or path}}` while the block runs.

    Only `token` opens the `private` repositories and the files of `gated` ones. With `cdn` the bytes of large files
    come by redirect from a second origin.
    """
    trees = {name: dict(files) for name, files in repositories.items()}
    for files in trees.values():
        for name, content in files.items():
            blob_of(name, content)  # so that no request waits for the hash of a large file
    hub = FakeHub(trees, token=token, private=frozenset(private), gated=frozenset(gated))
    hub._ports = {"hub": port, "cdn": 0} if cdn else {"hub": port}
    hub.up()
    hub.url = f"http://127.0.0.1:{hub._ports['hub']}"
    hub.cdn_url = f"http://127.0.0.1:{hub._ports['cdn']}" if cdn else None
    try:
        yield hub
    finally:
        hub.down()
        hub.release()


def listing(repository: str, commit: str, has_blobs: bool, files: Files) -> dict[str, Any]:  # noqa: FBT001 - the query's
    """The answer of `/api/models/…`; sizes and hashes come only with `?blobs=true`."""
    siblings: list[dict[str, Any]] = []
    for name, content in files.items():
        siblings.append({"rfilename": name})
        if has_blobs:
            blob = blob_of(name, content)
            siblings[-1] |= {"size": blob.size, "blobId": blob.git_oid}
            if blob.sha256:
                siblings[-1]["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(pointer_to(blob))}
    model = {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []}
    return model | {"private": False, "downloads": 0, "likes": 0}


def tree(files: Files) -> list[dict[str, Any]]:
    """The answer of `/api/models/…/tree/…?recursive=true`."""
    entries: list[dict[str, Any]] = []
    for name, content in files.items():
        blob = blob_of(name, content)
        entries.append({"type": "file", "path": name, "size": blob.size, "oid": blob.git_oid})
        if blob.sha256:
            entries[-1]["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(pointer_to(blob))}
    return entries


def cut_out(content: Content, start: int, stop: int) -> Body:
    """The bytes from `start` to `stop`."""
    return content[start:stop] if isinstance(content, bytes) else Part(content, start, stop)


def pointer_to(blob: Blob) -> bytes:
    """What git keeps in place of a file in large file storage."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{blob.sha256}\nsize {blob.size}\n".encode()


def blob_of(name: str, content: Content) -> Blob:
    """Hash a file as the hub would: GGUF and large ones for large file storage, the others for git."""
    if isinstance(content, bytes):
        size, modified_ns = len(content), 0
    else:
        status = content.stat()
        size, modified_ns = status.st_size, status.st_mtime_ns
    return _blob(content, size, modified_ns, name.lower().endswith(".gguf") or size > LFS_FROM_BYTES)


@lru_cache(maxsize=None)
def _blob(content: Content, size: int, modified_ns: int, is_large: bool) -> Blob:
    body = content if isinstance(content, bytes) else content.read_bytes()
    if not is_large:
        return Blob(size, git_oid(body), None)
    blob = Blob(size, "", hashlib.sha256(body).hexdigest())
    return Blob(size, git_oid(pointer_to(blob)), blob.sha256)


def git_oid(body: bytes) -> str:
    """The name of a file's content in git."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


# -------------------------------------------------------------------------------------------------------- server


class Origin(ThreadingHTTPServer):
    """A port that answers for the hub: as `hub` itself or as its `cdn`."""

    daemon_threads = True

    def __init__(self, hub: FakeHub, name: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), Speaker)
        self.hub, self.name = hub, name
        self.connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in self.connections.copy():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                continue

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception() if sys.version_info >= (3, 11) else None, OSError):  # the client went away
            super().handle_error(request, client_address)


class Speaker(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Origin

    def do_GET(self) -> None:
        hub = self.server.hub
        asked = Exchange(self.server.name, self.command, self.path, self.headers)
        hub.note(asked)
        hub.may_answer.wait()
        try:
            self._say(hub.answer(asked), hub)
        finally:
            if hub.report:
                hub.report(asked)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        pass

    def _say(self, answer: Answer, hub: FakeHub) -> None:
        if answer.hold_after == BEFORE_THE_STATUS:
            hub.hold()
        self.send_response_only(answer.status)
        if "Transfer-Encoding" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        events = {answer.hold_after, answer.cut_after} - {None}
        sent = 0
        for stop in sorted(
            {min(event, len(answer.body)) for event in events if event is not None} | {len(answer.body)}
        ):
            self._send(answer, sent, stop)
            sent = stop
            if stop == answer.hold_after:
                hub.hold()
            if stop == answer.cut_after:
                self.close_connection = True
                return

    def _send(self, answer: Answer, start: int, stop: int) -> None:
        step = SENT_AT_ONCE_BYTES if answer.bytes_per_s is None else max(1, answer.bytes_per_s // 20)
        for first in range(start, stop, step):
            self._send_at_once(answer.body, first, min(first + step, stop))
            self.server.hub.note_sent(answer.asked, min(first + step, stop) - first)
            if answer.bytes_per_s:
                time.sleep(step / answer.bytes_per_s)

    def _send_at_once(self, body: Body, start: int, stop: int) -> None:
        if isinstance(body, bytes):
            self.wfile.write(memoryview(body)[start:stop])
        else:
            with body.path.open("rb") as file:
                self.connection.sendfile(file, body.start + start, stop - start)


# ------------------------------------------------------------------------------------------------------- by hand


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fakehub", description="A hub on loopback that fails on demand."
    )
    parser.add_argument(
        "place", nargs="+", help="ORG/NAME=FILE, ORG/NAME=DIR, or a directory with ORG/NAME directories in it"
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", help="makes the repositories private: only this token opens them")
    parser.add_argument("--cdn", action="store_true", help="sends large files from a second port, by redirect")
    parser.add_argument("--rate", type=int, metavar="BYTES_PER_S", help="sends files no faster than this")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND[:ARG][@TIMES]",
        help=f"a status with an optional Retry-After in seconds, hostile, {', '.join(KINDS)}",
    )
    options = parser.parse_args(arguments)
    repositories: dict[str, dict[str, Content]] = {}
    for place in options.place:
        for name, file, path in files_at(place):
            repositories.setdefault(name, {})[file] = path
    faults = [fault.partition("@")[::2] for fault in options.fault]
    if ("hostile", "") in faults:
        faults.remove(("hostile", ""))
        for files in repositories.values():
            files |= hostile_files()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread starts
    private = repositories if options.token else ()
    with fake_hub(repositories, cdn=options.cdn, token=options.token, private=private, port=options.port) as hub:
        for fault, times in faults:
            hub.fail(parse_fault(fault), times=int(times) if times else None)
        if options.rate:
            hub.fail(Drip(options.rate))
        hub.report = say
        say(hub.url)
        signal.sigwait(ends)


def files_at(place: str) -> Iterator[tuple[str, str, Path]]:
    """Read a place on the command line: repository, name in it, path on disk of each file."""
    repository, equals, path = place.rpartition("=")
    root = Path(path)
    if equals and root.is_file():
        yield repository, root.name, root
        return
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        parts = file.relative_to(root).parts
        if equals:
            yield repository, "/".join(parts), file
        elif len(parts) > 2:
            yield "/".join(parts[:2]), "/".join(parts[2:]), file


def say(line: object) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - this is for a terminal


if __name__ == "__main__":
    main()
