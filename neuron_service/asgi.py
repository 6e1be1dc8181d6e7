"""The types of an ASGI application, for modules that must not load a web framework. The extensions of our server."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

__all__ = (
    "DIRECT_WRITE",
    "PEER",
    "READING_METHODS",
    "REQUEST_ID",
    "ASGIApp",
    "DirectWrite",
    "Receive",
    "Scope",
    "Send",
)

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

READING_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods of HTTP that change nothing here. Their requests need no body."""
REQUEST_ID: Final = b"x-request-id"
"""The header of the id, of a request and of an answer."""

DirectWrite: TypeAlias = Callable[[bytes], bool]
"""Writes a piece of the body at once. Returns whether the client has read enough for another piece. If not, the caller
must `send` the next piece, which waits for the client. May be called once the answer has begun, until its last piece.
Does nothing if the client has gone.
"""
DIRECT_WRITE: Final = "neuron.direct_write"
"""The extension of a scope, as `{DIRECT_WRITE: {"write": DirectWrite}}`, of servers that have it. Whoever wraps `send`
must take it out of the scope.
"""

PEER: Final = "neuron.peer"
"""The extension of a scope, as `{PEER: {"uid": int, "gid": int, "pid": int}}`: the process at the other end of a Unix
socket, as the kernel knows it from the time of its `connect`. Scopes of other connections do not have it.
"""
