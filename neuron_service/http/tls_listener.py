"""Accepts connections that begin with a TLS handshake. Each handshake has a deadline and takes a connection's place."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final

from neuron_lib.logs import get_logger
from neuron_lib.shown import clip
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.certificates import Certificates
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http.listening import closed_if_it_fails

__all__ = ("TlsListener",)

logger = get_logger(__name__)

_PAUSE_S: Final = 0.1
"""After an accept that failed, mostly because this process has too many open files."""


class TlsListener:
    """Accepts connections on a listening socket until it is closed. Has what uvicorn uses of asyncio's servers.

    asyncio's own servers show a connection only after its handshake. They would not count connections that never finish
    one, and they would use the same certificates for ever.
    """

    def __init__(
        self,
        sock: socket.socket,
        connect: Callable[..., asyncio.Protocol],
        connections: set[Any],
        *,
        certificates: Certificates,
        cap: ConnectionCap,
        limits: ConnectionLimits,
    ) -> None:
        """Begin to accept. Belongs to the running event loop.

        `connect` makes the protocol of a connection, which calls its argument `take_place` as soon as the connection is
        made. `connections` are all connections of the server. A handshake is one of them until `take_place` is called.
        """
        self._sock = sock
        self._connect = connect
        self._connections = connections
        self._certificates = certificates
        self._cap = cap
        self._limits = limits
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept no more connections. Those that are open go on."""
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        """Return when the socket is not used any more."""
        await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._sock.setblocking(False)
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._sock)
                self._take(accepted)
            except OSError as error:
                logger.warning("a connection cannot be accepted: %s", error.strerror)
                await asyncio.sleep(_PAUSE_S)
            except Exception:  # nobody looks at this task: without it the service would be deaf, and nobody would know
                logger.exception("bug in accepting a connection")
                await asyncio.sleep(_PAUSE_S)

    def _take(self, accepted: socket.socket) -> None:
        """Begin the handshake of a connection, or end the connection if there is no place for it."""
        open_connections = len(self._connections) + 1
        with closed_if_it_fails(accepted):
            if self._cap.has_place(open_connections):
                handshake = _Handshake()
                self._connections.add(handshake)
                handshake.begin(self._shake_hands(handshake, accepted))
            else:
                self._cap.welcome(open_connections)  # logs the first one
                accepted.close()

    async def _shake_hands(self, handshake: "_Handshake", accepted: socket.socket) -> None:
        client = _address(accepted)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self._connect(take_place=lambda: self._connections.discard(handshake)),
                accepted,
                ssl=self._certificates.context,
                ssl_handshake_timeout=self._limits.head_s,
                ssl_shutdown_timeout=self._limits.taking_s,  # it bounds the writing of the last answer too
            )
        except OSError as error:  # an SSLError is an OSError
            # INFO, because every scanner causes such failures and no operator has to act.
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            logger.info("TLS handshake failed", extra={"client": client, "reason": clip(reason or repr(error))})
        finally:
            self._connections.discard(handshake)
            self._cap.note_closed(len(self._connections))


class _Handshake:
    """A connection that is not made yet, among those that are."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, shake_hands: Coroutine[Any, Any, None]) -> None:
        """Run the handshake in a task."""
        self._task = asyncio.get_running_loop().create_task(shake_hands)

    def shutdown(self) -> None:
        """The host ends, and waits for no handshake. uvicorn calls this for each connection."""
        if self._task is not None:
            self._task.cancel()


def _address(sock: socket.socket) -> str:
    try:
        peer = sock.getpeername()
    except OSError:  # it has left
        return "-"
    return str(peer[0]) if isinstance(peer, tuple) else "-"
