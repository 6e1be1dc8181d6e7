"""A daemon that answers as a test says, at a Unix socket: for the client and the commands that talk to a daemon."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, Final

from msgspec import Struct

__all__ = ("Answer", "FakeDaemon", "Seen", "events", "fake_daemon")

_POLL_S: Final = 0.01


class Answer(Struct, frozen=True):
    """What the daemon says. `body` is sent as JSON, unless it is bytes. `cut` ends the connection before the end."""

    body: Any = None
    status: int = 200
    content_type: str = "application/json"
    cut: bool = False


class Seen(Struct, frozen=True):
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


class FakeDaemon:
    """The daemon. `answers` has, by `METHOD /path`, an answer, or a function that gives one."""

    def __init__(self, place: Path, answers: Mapping[str, Answer | Callable[[Seen], Answer]]) -> None:
        self.host = f"unix:{place}"
        self.answers: dict[str, Answer | Callable[[Seen], Answer]] = dict(answers)
        self.seen: list[Seen] = []

    def answer(self, request: Seen) -> Answer:
        self.seen.append(request)
        found = self.answers.get(f"{request.method} {request.path}")
        if callable(found):
            return found(request)
        return found or Answer({"error": {"message": f"no such path: {request.path}", "code": "not_found"}}, status=404)


@contextmanager
def fake_daemon(folder: Path, answers: Mapping[str, Answer | Callable[[Seen], Answer]]) -> Iterator[FakeDaemon]:
    """A daemon that listens at a socket in this folder."""
    daemon = FakeDaemon(folder / "daemon.sock", answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = daemon.answer(Seen(self.command, self.path, headers, body))
            text = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("content-type", answer.content_type)
            self.send_header("content-length", str(len(text) + (1 if answer.cut else 0)))
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(text)
            self.close_connection = True

        do_GET = do_POST = _serve  # noqa: N815 - the names of http.server

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "a client"

    with ThreadingUnixStreamServer(str(folder / "daemon.sock"), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": _POLL_S})
        thread.start()
        try:
            yield daemon
        finally:
            server.shutdown()
            thread.join()


def events(*data: Any, end: bytes = b"") -> Answer:
    """A stream of events, each the JSON of one value."""
    text = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in data)
    return Answer(text + end, content_type="text/event-stream")
