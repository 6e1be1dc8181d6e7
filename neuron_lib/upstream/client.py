"""The connections to one upstream, and what every request to it has in common: who asks, limits, hanging up.

Knows HTTP and nothing of what bodies mean.
"""

import math
import os
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Final, Self, TypeVar

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream
from msgspec import Struct

from neuron_lib import __version__
from neuron_lib.errors import first_leaf
from neuron_lib.shown import clip
from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.connection import Connection, ConnectionLost, Head
from neuron_lib.upstream.unix_stream import connect_unix

__all__ = ("Exchange", "Silent", "Unreachable", "UpstreamClient", "UpstreamLimits")

T = TypeVar("T")

_MOST_IDLE: Final = 32
_IDLE_S: Final = 4.0
"""A connection that is idle for longer is not used again. Some servers close idle connections after 5 s."""
_REFUSAL_BYTES: Final = 256 << 10
_LAST_BYTES_S: Final = 0.25
_GONE: Final = "the model was unloaded"


class UpstreamLimits(Struct, frozen=True, kw_only=True):
    """How long an upstream may take, in seconds.

    `connect_s` bounds each connection, and `silence_s` each wait for the next bytes, the first ones included. A whole
    exchange takes `reply_s` at most. A request that does not reach a server which is not known to be lost is sent
    again after each of the `pauses_s`. If an answer broke off, `news_s` is the wait for the news that its server is
    lost.
    """

    connect_s: float = 5.0
    silence_s: float = 300.0
    reply_s: float = 3600.0
    pauses_s: tuple[float, ...] = (0.25, 1.0)
    news_s: float = 1.0


class Unreachable(Exception):
    """Nothing of an answer came: the server could not be reached, or the connection broke before."""


class Silent(Unreachable):
    """The server took the request and gave no answer in time. It may still work on the request."""


class Exchange:
    """One answer whose head is there, from `UpstreamClient.send`. Leaving its block hangs up if the answer goes on."""

    def __init__(self, client: "UpstreamClient", connection: Connection, head: Head, *, until_s: float) -> None:
        """The whole answer has to be there at `until_s`, on the event loop's clock."""
        self.head: Final = head
        self.received: int = 0
        """Bytes of the body so far."""
        self._client = client
        self._connection = connection
        self._until_s = until_s
        self._is_waiting = False
        self._last_piece_s = -math.inf
        client._exchanges.add(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def receive(self) -> bytes | None:
        """The next bytes of the body; None at its end.

        Raises `ConnectionLost`, also for a server that is silent or takes too long, and when the client is closed.
        """
        limits = self._client.limits
        left_s = max(0.0, self._until_s - anyio.current_time())
        self._is_waiting = True
        try:
            piece = await self._client.within(min(limits.silence_s, left_s), self._connection.receive)
        except TimeoutError:
            if left_s <= limits.silence_s:
                raise ConnectionLost(f"the reply took longer than {limits.reply_s:g} s") from None
            raise ConnectionLost(f"the server was silent for {limits.silence_s:g} s") from None
        except ConnectionLost:
            self._last_piece_s = -math.inf  # nothing is under way any more
            await self._connection.aclose()
            raise
        else:
            self._last_piece_s = -math.inf if piece is None else anyio.current_time()
        finally:
            self._is_waiting = False
        if piece is not None:
            self.received += len(piece)
            self._client.received += len(piece)
        return piece

    async def read_whole(self, *, most_bytes: int = _REFUSAL_BYTES) -> bytes:
        """The whole body. Raises `ConnectionLost` for one that is longer than `most_bytes`, and as `receive` does."""
        parts = bytearray()
        while (piece := await self.receive()) is not None:
            parts += piece
            if len(parts) > most_bytes:
                raise ConnectionLost(f"the server's answer is longer than {most_bytes} bytes")
        return bytes(parts)

    async def finish(self) -> None:
        """Wait a moment for the end of an answer that has said all, so that the connection can be used again."""
        with suppress(ConnectionLost), anyio.move_on_after(_LAST_BYTES_S):
            while await self.receive() is not None:
                pass

    async def aclose(self) -> None:
        """Hang up, or keep the connection for the next request if the answer is at its end."""
        self._client._exchanges.discard(self)
        with anyio.CancelScope(shield=True):
            await self._client._put_away(self._connection)

    async def hang_up(self) -> None:
        """Close the connection of an exchange that nobody waits for now. Whoever waits closes it."""
        if not self._is_waiting:
            await self._connection.aclose()


class UpstreamClient:
    """Sends requests to one server.

    `at_work` are the numbers of requests that were sent and that the server may still work on; whoever sends a request
    keeps them. `received` are the bytes of all answers so far. Requests that are under way when the client is closed
    break off.
    """

    def __init__(
        self, address: UpstreamAddress, *, limits: UpstreamLimits | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls` says which certificates are believed. An address with https needs it."""
        self.address: Final = address
        self.limits: Final = limits or UpstreamLimits()
        self.at_work: Final[set[int]] = set()
        self.received: int = 0
        self._tls: Final = tls
        self._idle: Final[deque[tuple[float, Connection]]] = deque()
        self._exchanges: Final[set[Exchange]] = set()
        self._scopes: Final[set[anyio.CancelScope]] = set()
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<UpstreamClient {self.address.shown} {len(self._scopes)} waiting>"

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        silence_s: float | None = None,
    ) -> Exchange:
        """Send a request and wait for the head of the answer, at most `silence_s` or as long as the limits say.

        An idle connection that turns out to be closed is replaced. Raises `Unreachable` if nothing of an answer comes,
        and its kind `Silent` if the server has taken the request.
        """
        limit_s = self.limits.silence_s if silence_s is None else silence_s
        until_s = anyio.current_time() + self.limits.reply_s
        sent = [*self._usual_headers(has_body=bool(body)), *headers.items()]
        while True:
            idle = await self._take_idle()
            connection = idle or await self._connect()
            ask = partial(_ask, connection, method, self.address.target(path), sent, body)
            try:
                return Exchange(self, connection, await self.within(limit_s, ask), until_s=until_s)
            except BaseException as error:
                with anyio.CancelScope(shield=True):
                    await connection.aclose()
                match error:
                    case ConnectionLost() if idle is not None and not self._is_closed:
                        continue  # it was closed while nobody looked
                    case ConnectionLost():
                        raise Unreachable(str(error)) from error
                    case TimeoutError():
                        raise Silent(f"the server gave no answer for {limit_s:g} s") from None
                raise

    def is_heard(self, within_s: float) -> bool:
        """Whether a piece of an answer that goes on came within the last `within_s`. Refusals do not count."""
        since_s = anyio.current_time() - within_s
        return any(each.head.status == 200 and each._last_piece_s >= since_s for each in self._exchanges)

    def abandon(self) -> None:
        """Break off all requests. Further ones raise `Unreachable`."""
        self._is_closed = True
        for scope in self._scopes:
            scope.cancel()

    async def aclose(self) -> None:
        """Break off all requests, and hang up everywhere."""
        self.abandon()
        for exchange in tuple(self._exchanges):
            await exchange.hang_up()
        while self._idle:
            await self._idle.pop()[1].aclose()

    async def within(self, limit_s: float, wait: Callable[[], Awaitable[T]]) -> T:
        """What `wait` returns. Raises `TimeoutError` after `limit_s`, and `ConnectionLost` if the client is closed."""
        if self._is_closed:
            raise ConnectionLost(_GONE)
        with anyio.move_on_after(limit_s) as scope:
            self._scopes.add(scope)
            try:
                return await wait()
            finally:
                self._scopes.discard(scope)
        if self._is_closed:
            raise ConnectionLost(_GONE)
        raise TimeoutError

    async def _connect(self) -> Connection:
        limit_s = self.limits.connect_s
        try:
            return Connection(await self.within(limit_s, self._stream))
        except ConnectionLost as error:
            raise Unreachable(str(error)) from error
        except TimeoutError:
            raise Unreachable(f"no connection within {limit_s:g} s") from None
        except ssl.SSLError as error:
            raise Unreachable(f"no encrypted connection: {_tls_reason(error)}") from error
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise Unreachable(f"no connection: {_reason(error)}") from error

    async def _stream(self) -> ByteStream:
        address = self.address
        stream: ByteStream
        if address.socket:
            stream = await connect_unix(address.socket)
        else:
            stream = await anyio.connect_tcp(address.host, address.port)
        if not address.is_tls:
            return stream
        try:
            return await TLSStream.wrap(stream, hostname=address.host, ssl_context=self._tls, standard_compatible=False)
        except BaseException:
            await anyio.aclose_forcefully(stream)
            raise

    async def _take_idle(self) -> Connection | None:
        """The connection that was used last, if it was not idle for too long. Close those on which something came."""
        while self._idle and anyio.current_time() - self._idle[-1][0] <= _IDLE_S:
            connection = self._idle.pop()[1]
            if connection.is_quiet:
                return connection
            with anyio.CancelScope(shield=True):
                await connection.aclose()
        return None

    async def _put_away(self, connection: Connection) -> None:
        """Keep a connection for the next request, or close it. Close those that were idle for too long."""
        now_s = anyio.current_time()
        if not self._is_closed and len(self._idle) < _MOST_IDLE and connection.recycle():
            self._idle.append((now_s, connection))
        else:
            await connection.aclose()
        while self._idle and now_s - self._idle[0][0] > _IDLE_S:
            await self._idle.popleft()[1].aclose()

    def _usual_headers(self, *, has_body: bool) -> list[tuple[str, str]]:
        headers = [
            ("host", self.address.authority),
            ("user-agent", f"neuron/{__version__}"),
            ("accept-encoding", "identity"),
        ]
        if self.address.token:
            headers.append(("authorization", f"Bearer {self.address.token}"))
        if has_body:
            headers.append(("content-type", "application/json"))
        return headers


async def _ask(connection: Connection, method: str, target: str, headers: list[tuple[str, str]], body: bytes) -> Head:
    await connection.send(method, target, headers, body)
    return await connection.head()


def _reason(error: BaseException) -> str:
    """Why there is no connection. Of several addresses of one host the first one counts."""
    if not isinstance(error, OSError):
        return type(error).__name__
    cause = error.__cause__
    if error.errno is None and cause is not None:
        return _reason(first_leaf(cause) if isinstance(cause, BaseExceptionGroup) else cause)
    if isinstance(error, socket.gaierror) or not error.errno:
        return clip(error.strerror or str(error))
    return os.strerror(error.errno)


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not believed: {clip(error.verify_message)}"
    return clip(error.reason or str(error))
