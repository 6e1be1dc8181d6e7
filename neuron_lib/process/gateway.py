"""Where a program listens: a Unix socket in a folder that nobody else can enter, or a free port of the loopback."""

import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from neuron_lib.process.program import HOST, Where

__all__ = ("open_gateway",)

_KEY_BYTES: Final = 32
_LONGEST_SOCKET: Final = 100
"""The kernel takes 107 bytes. A program may add a few."""


@contextmanager
def open_gateway(*, on_socket: bool) -> Iterator[Where]:
    """A place for one start of a program, with a new key. The folder of a socket goes with the block.

    A port is free when the block begins, and another program may take it before ours does.
    """
    key = secrets.token_urlsafe(_KEY_BYTES)
    if not on_socket:
        yield Where(api_key=key, port=_free_port())
        return
    with tempfile.TemporaryDirectory(prefix="neuron-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        yield Where(api_key=key, socket=Path(folder, "api.sock"))


def _short_folder() -> str | None:
    """The folder for temporary files, unless its name is too long for a socket."""
    return "/tmp" if len(tempfile.gettempdir()) + len("/neuron-12345678/api.sock") > _LONGEST_SOCKET else None  # noqa: S108 - a folder with a random name is made in it


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
