"""A network between a neuron and an RPC server: a relay on the loopback interface that delays, limits and counts.

Kernels have the same in `tc`, if they were built with netem and a process may use it. This needs no rights, and counts
how often the direction changes.
"""

import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

__all__ = ("Link", "Relay", "Traffic")

_CHUNK: Final = 1 << 16
_HELD_S: Final = 0.01
_WARNING_S: Final = 0.0002
"""A sleep may end this late, so the rest of a wait is spent looking at the clock."""


@dataclass(frozen=True)
class Link:
    """`delay_ms` is for one way. 0 `mbit_s` is no limit."""

    delay_ms: float = 0.0
    mbit_s: float = 0.0

    def __str__(self) -> str:
        limit = f", {self.mbit_s:g} Mbit/s" if self.mbit_s else ""
        return f"{2 * self.delay_ms:g} ms there and back{limit}"


@dataclass
class Traffic:
    """What has passed. `turns` are answers: bytes of the server behind bytes of the neuron."""

    sent_bytes: int = 0
    received_bytes: int = 0
    turns: int = 0
    is_sending: bool = field(default=True, repr=False)

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.sent_bytes - other.sent_bytes, self.received_bytes - other.received_bytes, self.turns - other.turns
        )

    def copy(self) -> "Traffic":
        return Traffic(self.sent_bytes, self.received_bytes, self.turns)


class Relay:
    """Relays one connection after another from `port` to a server, from the beginning to the end of a block."""

    def __init__(self, server: tuple[str, int], link: Link) -> None:
        self.traffic: Final = Traffic()
        self._server: Final = server
        self._link: Final = link
        self._listener: Final = socket.create_server(("127.0.0.1", 0))
        self._lock: Final = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            for stream in (client, server):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target, counted in ((client, server, self._count_sent), (server, client, self._count_received)):
                waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                threading.Thread(target=self._take, args=(source, waiting, counted), daemon=True).start()
                threading.Thread(target=_give, args=(target, waiting), daemon=True).start()

    def _take(
        self, source: socket.socket, waiting: "queue.SimpleQueue[tuple[float, bytes]]", count: Callable[[int], None]
    ) -> None:
        free_at = 0.0
        while True:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            now = time.perf_counter()
            count(len(data))
            if self._link.mbit_s:
                free_at = max(free_at, now) + len(data) * 8e-6 / self._link.mbit_s
                # A wire holds little: whoever sends more than it carries has to wait.
                time.sleep(max(0.0, free_at - now - _HELD_S))
            waiting.put((max(free_at, now) + self._link.delay_ms / 1000, data))
            if not data:
                return

    def _count_sent(self, count: int) -> None:
        with self._lock:
            self.traffic.sent_bytes += count
            self.traffic.is_sending = True

    def _count_received(self, count: int) -> None:
        with self._lock:
            self.traffic.received_bytes += count
            self.traffic.turns += self.traffic.is_sending
            self.traffic.is_sending = False


def _give(target: socket.socket, waiting: "queue.SimpleQueue[tuple[float, bytes]]") -> None:
    """Pass on what is due, and the end of it."""
    while True:
        due, data = waiting.get()
        if (rest_s := due - time.perf_counter() - _WARNING_S) > 0:
            time.sleep(rest_s)
        while time.perf_counter() < due:
            pass
        try:
            target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
        except OSError:
            return
        if not data:
            return
