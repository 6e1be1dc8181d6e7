"""How this service reads the sockets of engines: by asyncio's own means, because it always runs on asyncio."""

import asyncio
from collections.abc import Callable
from socket import socket

__all__ = ("read_socket",)


async def read_socket(sock: socket, take: Callable[[bytes], None]) -> None:
    """See `neuron_lib.sockets.SocketReader`. No task is woken for a piece: the event loop calls `take`."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    # The event loop closes what it reads, and knows no two readers and writers of one descriptor.
    transport, _ = await loop.create_unix_connection(lambda: _Protocol(take, ended), sock=sock.dup())
    try:
        await ended
    finally:
        transport.abort()


class _Protocol(asyncio.Protocol):
    def __init__(self, take: Callable[[bytes], None], ended: asyncio.Future[None]) -> None:
        self._take = take
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        if self._ended.done():
            return
        try:
            self._take(data)
        except Exception as error:  # noqa: BLE001 - raised by `read_socket`
            self._ended.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a reset: the other end died with bytes unread
        if not self._ended.done():
            self._ended.set_result(None)
