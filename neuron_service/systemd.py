"""The protocol between systemd and a service: variables of the environment at the start, and datagrams to systemd.

Knows nothing of models or requests. Callables say what to report and whether all is well.
"""

import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Final, Self

import anyio

from neuron_lib.errors import ConfigError

__all__ = (
    "Notifier",
    "SystemdEnvironment",
    "extend_timeout",
    "feed_watchdog",
    "inherited_socket",
    "keep_status",
    "report_ready",
    "take_environment",
)

_FIRST_FD: Final = 3
_LONGEST_STATUS_BYTES: Final = 1024
"""systemd ignores a whole message of more than 4096 bytes."""
_STATUS_PAUSE_S: Final = 1.0
_LONGEST_RECHECK_S: Final = 1.0
_EXTENSION_S: Final = 15.0
_EXTENSION_PAUSE_S: Final = 5.0
_VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)


@dataclass(slots=True, frozen=True, kw_only=True)
class SystemdEnvironment:
    """What systemd passed to this process. The defaults are those of a process that systemd did not start.

    `notify_address` is the address for reports. systemd expects a report each `watchdog_s` seconds. `socket_count`
    listening sockets are open, from descriptor 3 on.
    """

    notify_address: str | None = None
    watchdog_s: float | None = None
    socket_count: int = 0


def take_environment(environ: MutableMapping[str, str], *, pid: int) -> SystemdEnvironment:
    """Read systemd's variables and remove them from `environ`, because child processes must not see them.

    A variable for another process than `pid`, or one that cannot be read, counts as absent.
    """
    taken = {name: environ.pop(name, "") for name in _VARIABLES}
    address = taken["NOTIFY_SOCKET"]
    watchdog_us = _count(taken["WATCHDOG_USEC"]) if taken["WATCHDOG_PID"] in {"", str(pid)} else 0
    return SystemdEnvironment(
        notify_address=address if address.startswith(("/", "@")) else None,
        watchdog_s=watchdog_us / 1e6 if watchdog_us else None,
        socket_count=_count(taken["LISTEN_FDS"]) if taken["LISTEN_PID"] == str(pid) else 0,
    )


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def inherited_socket(socket_count: int, *, first_fd: int = _FIRST_FD) -> socket.socket | None:
    """The listening socket of TCP, or Unix socket, that systemd passed to this process. None if it passed none.

    Raises `ConfigError` for several sockets, and for a socket to which no HTTP client can connect.
    """
    if socket_count == 0:
        return None
    if socket_count > 1:
        raise ConfigError(f"systemd passed {socket_count} sockets, and there must be one: see the socket unit")
    try:
        sock = socket.socket(fileno=first_fd)
    except OSError as error:
        raise ConfigError(f"systemd passed no socket as descriptor {first_fd}: {error.strerror}") from error
    families = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
    is_stream = sock.family in families and sock.type == socket.SOCK_STREAM
    if not is_stream or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ConfigError("systemd passed a socket that does not listen for connections: see the socket unit")
    sock.set_inheritable(False)
    return sock


class Notifier:
    """Reports to systemd, in one datagram each. Never waits and never raises. Without an address it does nothing.

    Use it as `with Notifier(address) as notifier`.
    """

    def __init__(self, address: str | None) -> None:
        self._sock: socket.socket | None = None
        self._address = ""
        if address is not None:
            self._address = f"\0{address[1:]}" if address.startswith("@") else address
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sock is not None:
            self._sock.close()

    @property
    def is_mute(self) -> bool:
        """Whether there is no address, so that nothing is sent."""
        return self._sock is None

    def send(self, *assignments: str, status: str | None = None) -> bool:
        """Send assignments, each `NAME=value`, and `status`, a line for people.

        Returns False if the message was not delivered. It may then be sent again.
        """
        if self._sock is None:
            return True
        lines = [line.encode("utf-8", "replace") for line in assignments]
        if status is not None:
            # The limit counts bytes, so it may cut a character in two. systemd accepts only valid UTF-8.
            text = " ".join(status.split()).encode("utf-8", "replace")[:_LONGEST_STATUS_BYTES]
            lines.append(b"STATUS=" + text.decode("utf-8", "ignore").encode())
        try:
            self._sock.sendto(b"\n".join(lines), self._address)
        except OSError:
            return False
        return True

    def fail(self, reason: str, *, number: int) -> None:
        """Report why the process is about to fail. `number` is an errno, or 0 if none fits."""
        self.send(*([f"ERRNO={number}"] if number else []), status=reason)


async def keep_status(notifier: Notifier, line: Callable[[], str]) -> None:
    """Report the service as ready, with its `line`. Report `line` again when it has changed, at most once a second.

    A message that was not delivered is sent again after a second, because systemd would kill a service whose READY is
    lost. This happens if the socket is full, or while systemd executes itself again.
    """
    said: str | None = None
    while not notifier.is_mute:
        status = line()
        if status != said and notifier.send(*([] if said is not None else ["READY=1"]), status=status):
            said = status
        await anyio.sleep(_STATUS_PAUSE_S)


async def report_ready(notifier: Notifier, line: Callable[[], str]) -> None:
    """Report the service as ready again, after a reload. systemd waits for that, so it is sent until delivered."""
    while not notifier.is_mute:
        if notifier.send("READY=1", status=line()):
            return
        await anyio.sleep(_STATUS_PAUSE_S)


async def feed_watchdog(notifier: Notifier, watchdog_s: float, is_well: Callable[[], bool]) -> None:
    """Report to the watchdog three times in `watchdog_s`, but only while `is_well` is true. Runs on the event loop.

    When `is_well` was false, it is asked again soon, so that the pause between two reports does not grow.
    """
    pause_s = watchdog_s / 3
    while True:
        sent = is_well() and notifier.send("WATCHDOG=1")
        await anyio.sleep(pause_s if sent else min(pause_s, _LONGEST_RECHECK_S))


async def extend_timeout(notifier: Notifier) -> None:
    """Ask systemd for more time again and again. A stop may take longer than the unit allows. Ends by cancellation."""
    while not notifier.is_mute:
        notifier.send(f"EXTEND_TIMEOUT_USEC={round(_EXTENSION_S * 1e6)}")
        await anyio.sleep(_EXTENSION_PAUSE_S)
