"""HTTP/1.1 on one connection, as a client: one exchange at a time. The only module that knows h11.

Not httpx: its streams are async generators inside each other, which trio leaves to the garbage collector when a reader
leaves half-way, and a token would pass five of them.
"""

import select
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute
from msgspec import Struct

from neuron_lib.shown import clip

__all__ = ("Connection", "ConnectionLost", "Head")

_READ_BYTES: Final = 1 << 16
_MOST_HEAD_BYTES: Final = 64 << 10
"""The longest head of an answer, and the longest line between its pieces."""


class ConnectionLost(Exception):
    """The connection broke, was closed too early, or the other end does not speak HTTP."""


class Head(Struct, frozen=True):
    """The beginning of an answer. The names of the headers are lower-case; of several with one name the last counts."""

    status: int
    headers: Mapping[str, str]


class Connection:
    """One connection. Leaving its block closes it at once, which tells the server that nobody reads on.

    The calls of one exchange are `send`, `head`, and `receive` until it returns None. Each waits without a limit, so
    the caller gives one. After a call that was cancelled the connection is of no use. They raise `ConnectionLost`.
    """

    def __init__(self, stream: ByteStream) -> None:
        """`stream` is connected, and belongs to the connection from now on."""
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD_BYTES)
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def send(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        """Send a whole request. A server that answers before it has read everything may close its end meanwhile."""
        length = (("content-length", str(len(body))),) if body else ()
        try:
            request = h11.Request(method=method, target=target, headers=[*headers, *length])
            parts = [request, *([h11.Data(data=body)] if body else []), h11.EndOfMessage()]
            text = b"".join(self._http.send(part) or b"" for part in parts)
        except h11.LocalProtocolError as error:
            raise ConnectionLost(f"no request can be sent here: {error}") from error
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await self._stream.send(text)  # if it breaks, the answer, or its absence, says more

    async def head(self) -> Head:
        """Wait for the status and the headers of the answer."""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                return Head(event.status_code, headers)
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionLost("the server closed the connection without an answer")
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionLost("the server's answer has no beginning")

    async def receive(self) -> bytes | None:
        """The next bytes of the answer's body; None at its end, each time."""
        while self._http.their_state is not h11.DONE:
            event = await self._event()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                return None
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionLost("the server closed the connection in the middle of its answer")
        return None

    def recycle(self) -> bool:
        """Prepare for the next exchange. False if the connection cannot have one: then it must be closed."""
        is_done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if self._is_closed or not is_done or self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        return True

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer. What comes unasked is no answer to the next request: some
        servers say 408 before they close an idle connection.
        """
        sock = self._stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - of anyio, and no SQL
        if sock is None:
            return True
        waiting = select.poll()
        waiting.register(sock.fileno(), select.POLLIN)
        return not waiting.poll(0)

    async def aclose(self) -> None:
        """Close at once."""
        if not self._is_closed:
            self._is_closed = True
            await anyio.aclose_forcefully(self._stream)

    async def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            try:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._http.receive_data(await self._read())
            except h11.RemoteProtocolError as error:
                raise ConnectionLost(f"the server broke the rules of HTTP, or off: {clip(str(error))}") from None

    async def _read(self) -> bytes:
        try:
            return await self._stream.receive(_READ_BYTES)
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
            raise ConnectionLost(f"the connection broke: {type(error).__name__}") from error
