"""A server on a port of 127.0.0.1 that says what a test wants about its models and to its requests."""

import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener

from tests.fakes.raw_upstream import Answer, answer, read_request, sse

__all__ = ("END", "HELLO", "RemoteServer", "listed", "remote_server")

HELLO = '{"choices":[{"index":0,"delta":{"content":"Hello"}}]}'
END = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'


def listed(*ids: str, **fields: Any) -> bytes:
    """An answer with models, which all have `fields` too."""
    return answer(200, json.dumps({"object": "list", "data": [{"id": each, **fields} for each in ids]}))


@dataclass
class RemoteServer:
    """`answers` by path; a path that is not there has `others`. `requests` are those that came, whole.

    The server stays where it is when it is `away`: its port is taken, and nobody listens.
    """

    answers: dict[str, bytes | Answer]
    others: bytes | Answer
    port: int
    tls: ssl.SSLContext | None = None
    requests: list[bytes] = field(default_factory=list)
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def paths(self) -> list[str]:
        """The method and the path of each request."""
        return [request.split(b" HTTP", 1)[0].decode() for request in self.requests]

    def last(self, path: str) -> bytes:
        """The last request for a path."""
        return next(request for request in reversed(self.requests) if request.split()[1].decode() == path)

    def body(self, path: str) -> Any:
        """What the last request for a path says."""
        return json.loads(self.last(path).partition(b"\r\n\r\n")[2])

    async def serve(self, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `kill`."""
        listener: Any = await anyio.create_tcp_listener(
            local_host="127.0.0.1", local_port=self.port, family=socket.AF_INET, reuse_port=True
        )
        self.port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - of anyio
        if self.tls is not None:
            listener = TLSListener(listener, self.tls, standard_compatible=False)
        with anyio.CancelScope() as self._scope:
            async with listener:
                task_status.started()
                await listener.serve(self._serve_one)

    def kill(self) -> None:
        """Hang up everywhere, and listen no more. `serve` begins again on the same port."""
        self._scope.cancel()

    async def _serve_one(self, stream: ByteStream) -> None:
        async with stream:
            try:
                while True:
                    request = await read_request(stream)
                    self.requests.append(request)
                    path = request.split()[1].decode().partition("?")[0]
                    said = self.answers.get(path, self.others)
                    if callable(said):
                        await said(stream, request)
                        return
                    await stream.send(said)
                    if b"content-length" not in said:
                        return
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return


@asynccontextmanager
async def remote_server(
    models: bytes | Answer | Sequence[str] = ("org/model",),
    *,
    chat: bytes | Answer | None = None,
    answers: Mapping[str, bytes | Answer] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RemoteServer]:
    """A server whose list of models is `models`, and whose answer to a chat is `chat`, by default a hello."""
    said = {
        "/v1/models": listed(*models) if not isinstance(models, bytes) and not callable(models) else models,
        "/v1/chat/completions": chat or sse(HELLO, END),
        **(answers or {}),
    }
    server = RemoteServer(said, answer(404, '{"error":{"message":"no such path"}}'), 0, tls)
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(server.serve))
        yield server
        tasks.cancel_scope.cancel()
