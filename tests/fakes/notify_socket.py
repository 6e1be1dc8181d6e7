"""The socket on which systemd hears of its services, and what was said there, with the sender the kernel names."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

__all__ = ("Message", "NotifySocket", "notify_socket")

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


@dataclass(slots=True, frozen=True)
class Message:
    """One datagram as its assignments; the same name never comes twice in one."""

    pid: int
    assignments: dict[str, str]


class NotifySocket:
    """Collects what is sent to `address`, in order."""

    def __init__(self, sock: socket.socket, address: str) -> None:
        self.sock: Final = sock
        self.address: Final = address

    def new(self) -> list[Message]:
        """What came since the last look; never waits."""
        messages: list[Message] = []
        while True:
            try:
                data, ancillary, *_ = self.sock.recvmsg(8192, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return messages
            ((_, _, credentials),) = ancillary
            pid, _, _ = _CREDENTIALS.unpack(credentials)
            pairs = [line.partition("=") for line in data.decode().splitlines()]
            assert len({name for name, _, _ in pairs}) == len(pairs)
            messages.append(Message(pid, {name: value for name, _, value in pairs}))

    def told(self) -> list[dict[str, str]]:
        """The assignments of the new messages."""
        return [message.assignments for message in self.new()]


@contextmanager
def notify_socket(address: str) -> Iterator[NotifySocket]:
    """A socket at a path, or at an abstract address that begins with `@`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.setblocking(False)
        sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        yield NotifySocket(sock, address)
