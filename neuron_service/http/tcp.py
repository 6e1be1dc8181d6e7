"""The kernel's help for one connection: to end it if it is silent, and to ask about its other end."""

import fcntl
import select
import socket
import struct
import sys
import termios
from typing import Final

__all__ = ("bound_silence", "has_gone", "is_delivered", "unix_peer")

_TCP_CLOSED: Final = 7  # TCP_CLOSE of linux/tcp_states.h, the first byte of TCP_INFO
_PROBES: Final = 3
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


def bound_silence(sock: socket.socket, limit_s: float) -> None:
    """Have the kernel end a connection whose other end confirms nothing for about `limit_s` seconds.

    This covers data that was sent as well as keep-alive probes of an idle connection. Does nothing for a socket that is
    not TCP.
    """
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(limit_s * 1000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(limit_s / 2)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(limit_s / 2 / _PROBES)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


def has_gone(sock: socket.socket) -> bool:
    """Whether the other end has reset the connection, or closed its Unix socket. Half-closing does not count."""
    if sock.family == socket.AF_UNIX:
        poll = select.poll()
        poll.register(sock.fileno(), 0)  # reports POLLHUP alone, which means that both directions have ended
        return bool(poll.poll(0))
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return info[0] == _TCP_CLOSED


def is_delivered(sock: socket.socket) -> bool:
    """Whether the other end's system has confirmed everything that was written to a socket of TCP."""
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder) == 0


def unix_peer(sock: socket.socket) -> dict[str, int] | None:
    """The `pid`, `uid` and `gid` of the process at the other end of a Unix socket; None for other sockets."""
    if sock.family != socket.AF_UNIX:
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return dict(zip(("pid", "uid", "gid"), _CREDENTIALS.unpack(credentials), strict=True))
