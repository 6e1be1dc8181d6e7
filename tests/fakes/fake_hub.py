"""A hub on loopback that speaks as much of the Hugging Face protocol as the client needs, and fails on demand."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

__all__ = ("FakeHub", "fake_hub")

ANSWERS: Mapping[int | str, tuple[int, Mapping[str, str]]] = {
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "no_repository": (404, {"X-Error-Code": "RepoNotFound"}),
    "no_revision": (404, {"X-Error-Code": "RevisionNotFound"}),
    429: (429, {"Retry-After": "1"}),
}


@dataclass(slots=True)
class FakeHub:
    """What the server holds and saw. `fault` fails every request: a status, or a key of `ANSWERS`.

    `requests` records `METHOD path`, `tokens` the Authorization header of each. `commit` is the head of every branch.
    While `may_answer` is cleared no request is answered; `is_asked` is set by the first.
    """

    repositories: dict[str, dict[str, bytes]]
    url: str = ""
    commit: str = "a" * 40
    fault: int | str | None = None
    requests: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)
    is_asked: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()


@contextmanager
def fake_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[FakeHub]:
    """Serve `{"org/name": {"file": content}}` on a free port while the block runs."""
    hub = FakeHub({name: dict(files) for name, files in repositories.items()})

    class Answer(_Answer):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.may_answer.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        pass

    def _answer(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.state.requests.append(f"{self.command} {path}")
        self.state.tokens.append(self.headers["Authorization"])
        self.state.is_asked.set()
        self.state.may_answer.wait()
        if self.state.fault is not None:
            status, headers = ANSWERS.get(self.state.fault) or (int(self.state.fault), {})
            self._send(status, b"{}", headers)
        elif path.startswith("/api/models/"):
            self._listing(path.removeprefix("/api/models/").partition("/revision/")[0])
        else:
            repository, _, revision_and_file = path[1:].partition("/resolve/")
            self._file(repository, revision_and_file.partition("/")[2])

    def _listing(self, repository: str) -> None:
        files = self.state.repositories.get(repository)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        siblings = [{"rfilename": name} for name in files]
        body = {"id": repository, "modelId": repository, "sha": self.state.commit, "siblings": siblings, "tags": []}
        self._send(200, json.dumps(body | {"private": False, "downloads": 0, "likes": 0}).encode())

    def _file(self, repository: str, name: str) -> None:
        content = self.state.repositories.get(repository, {}).get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": self.state.commit, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        if wanted := self.headers["Range"]:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, content[start:], headers)
        else:
            self._send(200, content, headers)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
