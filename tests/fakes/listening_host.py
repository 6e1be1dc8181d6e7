"""A scripted host behind real sockets: uvicorn on uvloop in a thread, so that tests may be blunt with their sockets."""

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from neuron_lib.testing import ScriptedModel
from neuron_service.app import create_app
from neuron_service.asgi import ASGIApp
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.certificates import Certificates
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.listening import bind
from neuron_service.http.serving import http_server
from neuron_service.http.uvicorn_parts import Server
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host
from tests.patience import PATIENCE_S

__all__ = ("ListeningHost", "RawClient", "RawReply", "listening_host", "raw_chat", "raw_head")

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True, frozen=True, kw_only=True)
class ListeningHost:
    port: int
    scripted: ScriptedHost
    _portal: BlockingPortal
    _server: Server

    @contextmanager
    def connect(self, *, receive_buffer: int | None = None) -> Iterator["RawClient"]:
        """A connection; closed at the end if the test has not done so."""
        with socket.socket() as sock:
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(PATIENCE_S)
            sock.connect(("127.0.0.1", self.port))
            yield RawClient(sock)

    def get(self, path: str) -> "RawReply":
        """The answer to a GET on a connection of its own."""
        with self.connect() as client:
            client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            return client.reply()

    def set(self, event: anyio.Event) -> None:
        """Set an event of a script."""
        self._portal.call(event.set)

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a function, or a coroutine function, on the event loop of the host."""
        return self._portal.call(function, *arguments)

    def stop_accepting(self) -> None:
        self._portal.call(self._server.stop_accepting)

    def part_with_clients(self) -> None:
        self._portal.call(self._server.part_with_clients)

    def is_idle(self) -> bool:
        """Whether no seat is taken, nobody waits for one, and no request is being answered."""
        loads = self._portal.call(self.scripted.registry.loads)
        return all(load.in_flight == load.queue_depth == 0 for load in loads) and not self.requests_under_way

    @property
    def requests_under_way(self) -> int:
        return len(self._server.server_state.tasks)

    @property
    def open_connections(self) -> int:
        return len(self._server.server_state.connections)

    def socket_option(self, level: int, option: int) -> int:
        """An option of the host's end of its only connection."""
        (connection,) = self._server.server_state.connections
        value: int = connection.transport.get_extra_info("socket").getsockopt(level, option)
        return value


@dataclass(slots=True, frozen=True)
class RawReply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def error(self) -> Any:
        """What its envelope says."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)["error"]


class RawClient:
    """A socket, and as much HTTP as reading an answer takes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._received = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """Leave as a process does that is killed with data unread."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.sock.close()

    def head(self) -> RawReply:
        """The status line and the headers of the next answer, interim responses left out."""
        head = self.read_until(b"\r\n\r\n").decode()
        status_line, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(status_line.split()[1])
        return self.head() if status == 100 else RawReply(status, headers, b"")

    def reply(self) -> RawReply:
        """The next answer, whose length must be known."""
        head = self.head()
        return RawReply(head.status, head.headers, self._read(int(head.headers["content-length"])))

    def rest(self) -> bytes:
        """Everything until the host closes the connection. Raises ConnectionResetError if it resets it instead."""
        while data := self.sock.recv(65536):
            self._received += data
        received, self._received = self._received, b""
        return received

    def is_closed(self) -> bool:
        """Whether the host has closed the connection; waits for that, and nothing else may come."""
        return self.rest() == b""

    def read_until(self, mark: bytes) -> bytes:
        """The bytes up to and with `mark`."""
        while mark not in self._received:
            self._receive()
        return self._read(self._received.index(mark) + len(mark))

    def _read(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        assert data, f"the host closed the connection after {self._received!r}"
        self._received += data


@contextmanager
def listening_host(
    scripts: Mapping[str, ScriptedModel] | None = None,
    *,
    resident: Sequence[str] = (),
    limits: ConnectionLimits | None = None,
    cap: ConnectionCap | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
    certificates: Certificates | None = None,
    before: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Iterator[ListeningHost]:
    """A host that listens on `address`, with the models `resident` loaded. `before` may put something before its
    application. `port` 0 takes any free port.
    """

    @asynccontextmanager
    async def serving(portal: BlockingPortal) -> AsyncIterator[ListeningHost]:
        async with scripted_host(scripts, resident=resident) as scripted:
            sock = bind(address, port)
            server = http_server(
                before(create_app(scripted.real)),
                limits=limits,
                certificates=certificates,
                cap=cap or ConnectionCap.for_descriptors(8192),
                shutdown_limit_s=1,
            )
            bound = 0 if sock.family == socket.AF_UNIX else sock.getsockname()[1]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(server.run_on, sock)
                try:
                    yield ListeningHost(port=bound, scripted=scripted, _portal=portal, _server=server)
                finally:  # also of a test that fails: uvloop does not end before its sockets are closed
                    server.should_exit = True
                    await server.stopped.wait()

    with (
        start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
        portal.wrap_async_context_manager(serving(portal)) as host,
    ):
        yield host


def raw_chat(model: str, *, stream: bool = False) -> bytes:
    """A chat as it is on the wire."""
    body = json.dumps(chat_body(model, stream=stream)).encode()
    return raw_head("POST", "/v1/chat/completions", content_length=len(body)) + body


def raw_head(method: str, path: str, *, content_length: int) -> bytes:
    """A request up to its body, which is JSON."""
    return (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {content_length}\r\n\r\n"
    ).encode()
