"""All uses of uvicorn. Most of the parts that are used are not documented.

`UvicornConnection` has a name for each part of uvicorn's protocol that `BoundedConnection` uses. `Server` does not
change the process. pyproject.toml bounds uvicorn's version. `tests/service/http/test_uvicorn_parts.py` lists everything
that this file relies on. For a newer uvicorn: read its `httptools_impl.py`, adapt this file and that list, raise the
bound.
"""

import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

import anyio
import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from neuron_service.asgi import DIRECT_WRITE, ASGIApp, Scope
from neuron_service.http.framing import without_upgrade

__all__ = ("Listen", "Server", "UvicornConnection")

Listen: TypeAlias = Callable[[socket.socket, Callable[..., asyncio.Protocol], set[Any]], Any]
"""Begins to accept connections on a socket, and returns what has `close` and `wait_closed` as asyncio's servers have.
The other arguments are what makes the protocol of a connection, and the set of all connections. uvicorn calls
`shutdown` of each connection of the set when the server ends, and waits until the set is empty.
"""


class UvicornConnection(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with a name for each of its parts that is used.

    A cycle is uvicorn's word for one request together with its answer. The cycle runs the application in a task. The
    callbacks `on_…` are called by httptools while `feed` parses.
    """

    cycle: RequestResponseCycle | None  # type: ignore[assignment] # uvicorn has None there before the first request

    # -------------------------------------------------------------------------------------------------- questions

    @property
    def open_connections(self) -> int:
        """The number of connections of the server, including this one until `connection_lost`."""
        return len(self.connections)

    @property
    def default_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """The headers of every answer: the date."""
        return self.server_state.default_headers

    @property
    def method(self) -> str:
        """The method of the request whose head was parsed last."""
        return self.parser.get_method().decode("ascii")

    @property
    def http_version(self) -> str:
        """The version of the request whose head was parsed last, such as "1.1"."""
        return self.parser.get_http_version()

    @property
    def request_headers(self) -> Iterable[tuple[bytes, bytes]]:
        """The headers of the request whose head was parsed last, names in lower case."""
        return self.headers

    @property
    def path(self) -> str:
        """The path of the request whose head was parsed last; "" for a target that has none."""
        try:
            raw_path = httptools.parse_url(self.url).path or b""
        except httptools.HttpParserInvalidURLError:
            return ""
        return unquote(raw_path.decode("latin-1"))

    @property
    def answered_scope(self) -> Scope:
        """The scope of the latest request that the application was given."""
        assert self.cycle is not None  # there is one
        return self.cycle.scope

    @property
    def asks_for_upgrade(self) -> bool:
        """Whether the request that is parsed asks for another protocol. CONNECT does not count."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    @property
    def is_answering(self) -> bool:
        """Whether a request is complete and its answer is not."""
        cycle = self.cycle
        return cycle is not None and not (cycle.response_complete or cycle.more_body or cycle.disconnected)

    @property
    def has_begun_answer(self) -> bool:
        """Whether the latest request's answer has begun."""
        return self.cycle is not None and self.cycle.response_started

    @property
    def is_answered(self) -> bool:
        """Whether the latest request's answer is complete."""
        return self.cycle is not None and self.cycle.response_complete

    @property
    def is_receiving_body(self) -> bool:
        """Whether the latest request's body is not complete."""
        return self.cycle is not None and self.cycle.more_body

    @property
    def is_last(self) -> bool:
        """Whether the connection ends behind the answer to the latest request."""
        return self.cycle is not None and not self.cycle.keep_alive

    @property
    def knows_interim_responses(self) -> bool:
        """Whether the latest request's version has responses such as 100. HTTP/1.0 has none."""
        return self.cycle is not None and self.cycle.scope["http_version"] == "1.1"

    # ----------------------------------------------------------------------------------------------------- orders

    def feed(self, data: bytes) -> None:
        """Parse bytes that have arrived. Raises the errors of httptools. A callback that raises ends the parsing."""
        self._unset_keepalive_if_required()
        self.parser.feed_data(data)

    def restart_without_upgrade(self) -> bytes:
        """Forget the current request. Returns its head without the request for another protocol, to be fed instead."""
        parser, self.parser = self.parser, httptools.HttpRequestParser(self)
        return without_upgrade(parser.get_method(), self.url, parser.get_http_version(), self.headers)

    def start_cycle(self, extensions: Mapping[str, Any], *, end: Callable[[], None]) -> None:
        """Begin to answer the request whose head is complete, with further `extensions` of its scope.

        `end` is called instead of closing the connection.
        """
        is_old = self.http_version == "1.0"
        if is_old:
            self.expect_100_continue = False  # HTTP/1.0 knows no interim responses
        super().on_headers_complete()
        assert self.cycle is not None
        self.cycle.transport = _CycleTransport(self.transport, end)
        ours: Any = {DIRECT_WRITE: {"write": _BodyWriter(self.cycle, self.transport)}, **extensions}
        self.cycle.scope["extensions"] = ours  # the application begins after this callback
        if is_old:
            self.cycle.send = _UntilClose(self.cycle)  # type: ignore[method-assign] # uvicorn has no place for it

    def end_body(self) -> None:
        """Tell the application that the request is complete. uvicorn does not expect that its answer was faster."""
        super().on_message_complete()
        assert self.cycle is not None
        if not self.parser.should_keep_alive():  # trailers may say so as well
            self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.cycle.more_body = False

    def make_last(self) -> None:
        """Have the connection end behind the answer to the latest request."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        self.forget_request()
        super().on_response_complete()

    def forget_request(self) -> None:
        """Called when an answer is complete. A subclass may have kept something of the request until now."""

    def abandon_cycle(self) -> None:
        """Tell the application that its client has gone, unless it has answered. It may wait for a body."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.waiting_for_100_continue = False
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def resume_reading(self) -> None:
        """Read from the socket again if uvicorn had paused that."""
        self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it running behind an error


class _CycleTransport(asyncio.Transport):
    """What a cycle uses of its transport, with an end of our own."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        super().__init__()
        self._transport = transport
        self._end = end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._end()


class _BodyWriter:
    """Writes pieces of an answer whose length is unknown; see `neuron_service.asgi.DirectWrite`."""

    __slots__ = ("_cycle", "_transport")

    def __init__(self, cycle: RequestResponseCycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport

    def __call__(self, piece: bytes) -> bool:
        cycle = self._cycle
        if cycle.disconnected:
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if cycle.chunked_encoding else piece)
        return not cycle.flow.write_paused


class _UntilClose:
    """The `send` of a cycle for a client of HTTP/1.0: an answer of unknown length ends with the connection.

    uvicorn would send chunks, which HTTP/1.0 does not know. uvicorn compares each piece with a length that was
    announced, so each piece is announced just before it is sent.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._has_length = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
            if not self._has_length:
                self._cycle.chunked_encoding = False
        elif not self._has_length:
            self._cycle.expected_content_length = len(message["body"])
        await self._send(message)


class Server(uvicorn.Server):
    """uvicorn's server. It handles no signals, and the caller gives the socket.

    `accepting` is set when connections are accepted, `stopped` when the server has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        connect: Callable[..., asyncio.Protocol],
        *,
        backlog: int,
        idle_s: int,
        shutdown_limit_s: int,
        listen: Listen | None = None,
    ) -> None:
        """Serve `app` over the connections that `connect` makes; it gets uvicorn's arguments for a protocol.

        Without `listen` asyncio accepts the connections.
        An idle connection is closed after `idle_s`. When `should_exit` is set, the server waits `shutdown_limit_s` for
        answers that are under way.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=connect,  # type: ignore[arg-type] # it is only ever called
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=backlog,
                timeout_keep_alive=idle_s,
                timeout_graceful_shutdown=shutdown_limit_s,
            )
        )
        self._listen = listen
        self.accepting = anyio.Event()
        self.stopped = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: uvicorn would raise them again at its end, and the exit status would be -15."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections. uvicorn itself takes every socket for one of TCP."""
        await super().startup([])
        config, state = self.config, self.server_state
        make: Any = config.http_protocol_class  # what `connect` was
        connect = partial(make, config=config, server_state=state, app_state={})
        for sock in sockets or ():
            self.servers.append(await self._accept_on(sock, connect))
        self.accepting.set()

    async def _accept_on(self, sock: socket.socket, connect: Callable[..., asyncio.Protocol]) -> Any:
        if self._listen is not None:
            return self._listen(sock, connect, self.server_state.connections)
        loop = asyncio.get_running_loop()
        start = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        return await start(connect, sock=sock, backlog=self.config.backlog)

    def stop_accepting(self) -> None:
        """Leave new connections to whoever else listens on the socket. Those that are open go on."""
        for server in self.servers:
            server.close()

    def part_with_clients(self) -> None:
        """Close the idle connections now, and each other one behind the answer that is under way."""
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def run_on(self, sock: socket.socket) -> None:
        """Serve on `sock` until `should_exit` is set."""
        try:
            await self.serve(sockets=[sock])
        finally:
            self.stopped.set()
