"""One connection without a socket: `BoundedConnection` and uvicorn's parser, between a client and an application in
memory. Time passes when the test says so.
"""

import asyncio
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from uvicorn.server import ServerState

from neuron_service.asgi import DIRECT_WRITE, DirectWrite, Receive, Scope, Send
from neuron_service.http.bodies import BodyBudget
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.connection import BoundedConnection
from neuron_service.http.last_words import CONTINUE, Refusals
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.serving import http_server
from neuron_service.refusals import render

__all__ = ("ManualLoop", "MemoryApp", "MemoryClient", "MemoryReply", "memory_connection")

_TURNS = 12
"""Turns of the loop in which everything that is ready has happened. A request takes fewer."""
_TCP_ESTABLISHED, _TCP_CLOSE = 1, 7


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still, unless `advance` is called."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__()

    def time(self) -> float:
        return self.now_s

    def advance(self, delay_s: float) -> None:
        """Let `delay_s` pass, and everything happen that is due then."""
        self.now_s += delay_s
        self.settle()

    def settle(self) -> None:
        for _ in range(_TURNS):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass(slots=True)
class MemoryApp:
    """Reads each request whole, and answers with its path and the length of its body.

    `/early` answers before it reads, `/stream` answers in two pieces without a length, `/wait` waits for `may_answer`.
    """

    requests: list[str] = field(default_factory=list)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Those of the latest request that is whole."""
    hung_up: int = 0
    """How many requests ended by the departure of their client."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    write: DirectWrite = field(init=False)
    """Of the latest request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.write = scope["extensions"][DIRECT_WRITE]["write"]
        self.requests.append(f"{scope['method']} {path}")
        if path == "/early":
            await self._answer(send, path, 0)
            return
        size, more_body = 0, True
        while more_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.hung_up += 1
                return
            size += len(message["body"])
            more_body = message["more_body"]
        self.headers = list(scope["headers"])
        if path == "/wait":
            await self.may_answer.wait()
        if path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await self.may_answer.wait()
            await send({"type": "http.response.body", "body": b"two", "more_body": False})
        else:
            await self._answer(send, path, size)

    async def _answer(self, send: Send, path: str, size: int) -> None:
        body = json.dumps({"path": path, "size": size}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class _Socket:
    """What the kernel says of a connection."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.tcp_state = _TCP_ESTABLISHED

    def setsockopt(self, level: int, option: int, value: int) -> None:
        pass

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option, size) == (socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return bytes([self.tcp_state])

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 50000)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 80)


class _Transport(asyncio.Transport):
    """Keeps what is written. A close is flushed at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.socket = _Socket()
        self.written = b""
        self.has_sent_eof = False
        self.is_aborted = False
        self.connection: asyncio.Protocol
        self._loop = loop
        self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.has_sent_eof, "written behind the end"
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_sent_eof = True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._lose(None)

    def abort(self) -> None:
        self.is_aborted = True
        self._lose(None)

    def lose(self) -> None:
        """The client resets the connection."""
        self._lose(ConnectionResetError())

    def _lose(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self.connection.connection_lost, error)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@dataclass(slots=True, frozen=True)
class MemoryReply:
    status: int
    headers: Mapping[str, str]
    body: Any
    """Decoded JSON."""


@dataclass(slots=True, kw_only=True)
class MemoryClient:
    """The client of the connection, and what can be seen of the connection from outside."""

    app: MemoryApp
    loop: ManualLoop
    connection: BoundedConnection
    transport: _Transport

    def send(self, data: bytes) -> None:
        """As one read of the socket, and everything that follows from it at once."""
        self.connection.data_received(data)
        self.loop.settle()

    def stop_sending(self) -> None:
        """Half-close the connection."""
        if not self.connection.eof_received():
            self.transport.close()
        self.loop.settle()

    def vanish(self) -> None:
        """Reset the connection as far as the kernel knows. Nothing of it has reached the loop."""
        self.transport.socket.tcp_state = _TCP_CLOSE

    def advance(self, delay_s: float) -> None:
        self.loop.advance(delay_s)

    def let_answer(self) -> None:
        """Let `/wait` and `/stream` go on."""
        self.app.may_answer.set()
        self.loop.settle()

    def take(self) -> bytes:
        """All bytes that have come since the last time."""
        taken, self.transport.written = self.transport.written, b""
        return taken

    def reply(self) -> MemoryReply:
        """The next answer, which must be whole, interim responses left out."""
        head, _, rest = self.transport.written.removeprefix(CONTINUE).partition(b"\r\n\r\n")
        status_line, *lines = head.decode().split("\r\n")
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers["content-length"])
        assert len(rest) >= size
        self.transport.written = rest[size:]
        return MemoryReply(int(status_line.split()[1]), headers, json.loads(rest[:size]))

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will come: the connection is closed, or lingers."""
        return not self.transport.written and (self.is_closed or self.transport.has_sent_eof)

    @property
    def is_closed(self) -> bool:
        return self.transport.is_closing()

    @property
    def is_open(self) -> bool:
        return not self.is_closed and not self.transport.has_sent_eof


@contextmanager
def memory_connection(
    *,
    limits: ConnectionLimits | None = None,
    cap: ConnectionCap | None = None,
    refusals: Refusals = render,
    bodies: BodyBudget | None = None,
) -> Iterator[MemoryClient]:
    """A client that has connected."""
    loop = ManualLoop()
    app = MemoryApp()
    cap = cap or ConnectionCap(100, spare=10)
    config = http_server(app, cap=cap, shutdown_limit_s=1, limits=limits, refusals=refusals, bodies=bodies).config
    config.load()
    make: Any = config.http_protocol_class
    transport = _Transport(loop)
    state = ServerState()
    connection = make(config=config, server_state=state, app_state={}, _loop=loop)
    transport.connection = connection
    connection.connection_made(transport)
    client = MemoryClient(app=app, loop=loop, connection=connection, transport=transport)
    try:
        loop.settle()
        yield client
    finally:
        transport.lose()
        app.may_answer.set()
        loop.settle()
        loop.close()
    assert not state.tasks, "a request goes on behind the end of its connection"
