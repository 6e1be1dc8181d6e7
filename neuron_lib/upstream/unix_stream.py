"""A connection to a Unix socket as a stream of bytes.

Not anyio's own stream: on asyncio it raises `InvalidStateError` into the event loop if a wait for bytes is cancelled in
the moment in which they come, which is what hanging up is.
"""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

__all__ = ("UnixStream", "connect_unix")


class UnixStream(ByteStream):
    """The stream owns its socket, which does not block."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock: Final = sock

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {SocketAttribute.raw_socket: lambda: self._sock}

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint()
        while True:
            try:
                data = self._sock.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
            except OSError as error:
                raise anyio.BrokenResourceError from error
            else:
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        await checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
            except OSError as error:
                raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self._sock.close()
        await checkpoint()


async def connect_unix(path: str | Path) -> UnixStream:
    """Connect to a Unix socket. Raises `OSError`; a socket whose line is full counts as one that nobody answers."""
    await checkpoint()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream = UnixStream(sock)
        sock.connect(str(path))  # a Unix socket is connected at once, or not at all
    except BaseException:
        sock.close()
        raise
    return stream
