"""The socket that the service listens on. Imports no server, so that the command line can bind before it loads one."""

import socket
from typing import Final

__all__ = ("BACKLOG", "bind")

BACKLOG: Final = 2048
"""How many connections may wait to be accepted while the service starts or is busy."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket, in whose backlog connections wait from now on.

    Raises OSError if the address is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
