"""A server that says exactly what a test wants, byte by byte, on a Unix socket; and the life of such a server."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import ByteStream

from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.client import UpstreamClient, UpstreamLimits
from neuron_lib.upstream.engine import UpstreamEngine
from neuron_lib.upstream.facts import UpstreamFacts
from neuron_lib.upstream.unix_stream import UnixStream

__all__ = ("Answer", "Life", "Lives", "RawUpstream", "answer", "raw_upstream", "read_request", "sse")

Answer = Callable[[ByteStream, bytes], Awaitable[None]]
"""What the server does with a request, whose bytes it has read."""


def sse(*events: str, done: bool = True) -> bytes:
    """A whole answer that is a stream of these events, without chunks: it ends with the connection."""
    data = "".join(f"data: {event}\n\n" for event in (*events, *(["[DONE]"] if done else [])))
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + data.encode()


def answer(status: int, body: str, *, kind: str = "application/json", headers: str = "") -> bytes:
    """A whole answer with a body of a known length."""
    raw = body.encode()
    return (
        f"HTTP/1.1 {status} Any\r\ncontent-type: {kind}\r\n{headers}content-length: {len(raw)}\r\n\r\n".encode() + raw
    )


@dataclass
class RawUpstream:
    """`requests` are those that came, whole. `answers` are used one after the other; the last one stays."""

    path: Path
    answers: list[bytes | Answer] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve_one(self, stream: ByteStream) -> None:
        self.connections += 1
        async with stream:
            try:
                while True:
                    request = await read_request(stream)
                    self.requests.append(request)
                    next_ = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    if callable(next_):
                        await next_(stream, request)
                        return
                    await stream.send(next_)
                    if b"content-length" not in next_:
                        return
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    def body(self, number: int = -1) -> bytes:
        return self.requests[number].partition(b"\r\n\r\n")[2]


async def read_request(stream: ByteStream) -> bytes:
    """A whole request: its head and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0]) if lengths else 0
    while len(body) < length:
        body += await stream.receive()
    return head + b"\r\n\r\n" + body


@asynccontextmanager
async def raw_upstream(folder: Path, *answers: bytes | Answer) -> AsyncIterator[RawUpstream]:
    upstream = RawUpstream(folder / "upstream.sock", list(answers))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.setblocking(False)
        listener.bind(str(upstream.path))
        listener.listen()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, listener, upstream)
            yield upstream
            tasks.cancel_scope.cancel()


async def _serve(listener: socket.socket, upstream: RawUpstream) -> None:
    async with anyio.create_task_group() as tasks:
        while True:
            await anyio.wait_readable(listener)
            tasks.start_soon(upstream.serve_one, UnixStream(listener.accept()[0]))


class Life(UpstreamEngine):
    """A server that serves from the start. It dies when a test says so."""

    def __init__(self, upstream: RawUpstream, limits: UpstreamLimits, facts: UpstreamFacts, token: str) -> None:
        address = UpstreamAddress(url="http://upstream", model="theirs", socket=str(upstream.path), token=token)
        super().__init__(model_id="org/model", client=UpstreamClient(address, limits=limits))
        self._facts = facts
        self.doubts = 0

    @property
    def facts(self) -> UpstreamFacts:
        return self._facts

    async def wait_ready(self) -> UpstreamFacts:
        return self._facts

    def doubt(self) -> None:
        self.doubts += 1


class Lives:
    """The lives of a server, one after the other."""

    def __init__(self, upstream: RawUpstream, *, limits: UpstreamLimits, facts: UpstreamFacts, token: str) -> None:
        self.all: list[Life] = []
        self._make = partial(Life, upstream, limits, facts, token)

    @asynccontextmanager
    async def start(self) -> AsyncIterator[Life]:
        life = self._make()
        self.all.append(life)
        try:
            yield life
        finally:
            life.bury("the model was unloaded")
            await life.client.aclose()

    def die(self) -> None:
        """The latest life ends. The next one begins at once."""
        self.all[-1].die("killed by the test")
