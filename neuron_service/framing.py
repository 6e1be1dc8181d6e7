"""Where a message of HTTP begins and ends, as far as uvicorn's parser and its answers leave that open."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

__all__ = ("CycleTransport", "RequestLine", "UntilClose", "unknown_transfer_coding")


class RequestLine:
    """The first line of the request that arrives now, as far as it is known; the parser does not keep it."""

    def __init__(self) -> None:
        self._line = b""

    def clear(self) -> None:
        """Another request begins."""
        self._line = b""

    def feed(self, data: bytes) -> None:
        """Take what arrived, until the line is whole. Empty lines before a request are no part of it."""
        if b"\n" not in self._line:
            line, newline, _ = (self._line + data).lstrip(b"\r\n").partition(b"\n")
            self._line = line + newline

    @property
    def names_other_protocol(self) -> bool:
        """Whether it ends with another protocol than HTTP: the parser also reads RTSP/1.0 and ICE/1.0.

        A line that is not known is taken for HTTP: that of a request that began in the middle of a read.
        """
        return bool(self._line) and not self._line.rstrip().rpartition(b" ")[2].startswith(b"HTTP/")


def unknown_transfer_coding(headers: Iterable[tuple[bytes, bytes]], *, version: str) -> str | None:
    """How a body is encoded for the transfer, unless that is in plain chunks or not at all. HTTP/1.0 has no chunks."""
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding").decode("latin-1")
    is_known = not codings or (codings.strip().lower() == "chunked" and version != "1.0")
    return None if is_known else codings


class CycleTransport(asyncio.Transport):
    """What a cycle of uvicorn's uses of its transport, with an end of our own."""

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


class UntilClose:
    """The `send` of a cycle for a client of HTTP/1.0: an answer of unknown length ends with the connection.

    uvicorn would send chunks, which HTTP/1.0 does not know. It compares each piece with a length that was announced, so
    each piece is announced just before it is sent.
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
