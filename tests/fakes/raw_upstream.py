"""A server that says exactly what a test wants, byte by byte, on a Unix socket; and the life of such a server."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import ByteStream

from neuron_lib.errors import EngineDead, Overloaded, OverloadReason
from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.client import UpstreamClient, UpstreamLimits
from neuron_lib.upstream.engine import UpstreamFacts
from neuron_lib.upstream.unix_stream import UnixStream

__all__ = ("Answer", "Death", "Life", "Lives", "RawUpstream", "answer", "raw_upstream", "sse")

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
                    request = await _read_request(stream)
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


async def _read_request(stream: ByteStream) -> bytes:
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


@dataclass(frozen=True)
class Death:
    reason: str
    requests: frozenset[int] = frozenset()


class Life:
    """See `UpstreamEngine`."""

    def __init__(self, socket: Path, *, limits: UpstreamLimits | None = None, token: str = "") -> None:
        address = UpstreamAddress(url="http://upstream", model="theirs", socket=str(socket), token=token)
        self.client = UpstreamClient(address, limits=limits)
        self.death: Death | None = None
        self.doubts = 0
        self._dead = anyio.Event()

    async def wait_dead(self) -> Death:
        await self._dead.wait()
        assert self.death is not None
        return self.death

    def another(self) -> "Life":
        return Life(Path(self.client.address.socket), limits=self.client.limits, token=self.client.address.token)

    def doubt(self) -> None:
        self.doubts += 1

    async def die(self, reason: str = "killed by the test") -> None:
        self.death = Death(reason, frozenset(self.client.at_work))
        self._dead.set()
        await self.client.aclose()


class Lives:
    """See `UpstreamSupervisor`: the lives of a server, one after the other, as a test says."""

    def __init__(self, life: Life, *, facts: UpstreamFacts | None = None) -> None:
        self.model_id = "org/model"
        self.restarts = 0
        self.last_death: str | None = None
        self.on_death: Callable[[object], object] = lambda _death: None
        self.facts = facts or UpstreamFacts()
        self.loss: str | None = None
        self.all = [life]
        self.at_death: frozenset[int] = frozenset()
        self._life = life
        self._changed = anyio.Event()

    @property
    def engine(self) -> Life | None:
        return self._life if self._life.death is None and self.loss is None else None

    def require_engine(self) -> Life:
        if self.engine is None:
            raise Overloaded("it is coming back", reason=OverloadReason.ENGINE_LOST, retry_after_s=2)
        return self.engine

    async def successor(self, dead: Life) -> Life:
        while self.loss is None and (self.engine is None or self.engine is dead):
            await self._changed.wait()
        if self.loss is not None:
            raise EngineDead(self.model_id, self.loss)
        return self.require_engine()

    async def wait_lost(self) -> str:
        while self.loss is None:
            await self._changed.wait()
        return self.loss

    async def die_and_come_back(self) -> None:
        """The server dies, and is there again at once, at the same place."""
        dead, self._life = self._life, self._life.another()
        self.all.append(self._life)
        self.restarts += 1
        await dead.die()
        assert dead.death is not None
        self.at_death = dead.death.requests
        self._wake()

    async def lose(self, reason: str) -> None:
        self.loss = reason
        await self._life.die(reason)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
