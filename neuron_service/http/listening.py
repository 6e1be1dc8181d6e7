"""The socket that the service listens on. Imports no server, so that the command line can bind before it loads one."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from neuron_lib.config import unix_path

__all__ = ("BACKLOG", "address_of", "bind", "closed_if_it_fails", "file_removed_at_end", "is_taken", "place_of")

BACKLOG: Final = 2048
"""How many connections may wait to be accepted while the service starts or is busy."""


def bind(host: str, port: int, *, socket_mode: int = 0o660) -> socket.socket:
    """Return a listening socket, in whose backlog connections wait from now on.

    `host` is an address, or `unix:` and the path of a Unix socket, which has no port. The file of a Unix socket has the
    permissions `socket_mode` from the moment at which it exists. The file of a service that has ended is replaced.

    Raises OSError if the address is taken.
    """
    if (path := unix_path(host)) is not None:
        return _bind_unix(path, socket_mode)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closed_if_it_fails(socket.socket(family, socket.SOCK_STREAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    return sock


def place_of(host: str, port: int) -> str:
    """Where a service with this `host` and `port` listens or would listen, for people."""
    return f"{host}:{port}" if unix_path(host) is None else host


def address_of(sock: socket.socket, *, is_tls: bool = False) -> str:
    """Where `sock` listens, such as `http://127.0.0.1:13131` or `unix:/run/neuron/neuron.sock`."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def file_removed_at_end(sock: socket.socket) -> Iterator[None]:
    """Remove the file of a Unix socket at the end of the block, unless another service has replaced the file."""
    if sock.family != socket.AF_UNIX:
        yield
        return
    path = Path(sock.getsockname())
    ours = path.lstat()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.path.samestat(path.lstat(), ours):
                path.unlink()


def _bind_unix(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    with closed_if_it_fails(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        # Not `chmod` after `bind`, because everybody could connect in between.
        others = os.umask(0o777 & ~mode)
        try:
            sock.bind(str(path))
        finally:
            os.umask(others)
        sock.listen(BACKLOG)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the file of a socket on which nobody listens any more. Raises OSError for any other file."""
    try:
        if is_taken(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except FileNotFoundError:
        return
    path.unlink()


def is_taken(path: Path) -> bool:
    """Whether a program listens on the Unix socket with this file. A service that has ended may have left the file.

    Does not wait. Raises FileNotFoundError, and OSError for a file that is no socket, or that may not be used.
    """
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise OSError(errno.EEXIST, "there is a file of this name, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # the backlog of a service may be full
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            pass
    return True


@contextlib.contextmanager
def closed_if_it_fails(sock: socket.socket) -> Iterator[socket.socket]:
    """Close the socket if the block raises."""
    try:
        yield sock
    except BaseException:
        sock.close()
        raise
