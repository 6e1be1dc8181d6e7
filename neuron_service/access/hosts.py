"""Who may ask, decided by the `Host` and the `Origin` of a request. Pure, except that it asks a socket for its address.

The owner of a web page may let the page's name resolve to the address of this host. The page may then talk to this host
as if to its own server (DNS rebinding). The page cannot choose the `Host` and the `Origin` that its browser sends: both
have the name that the page came from.
"""

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple, Self

from neuron_lib.shown import clip
from neuron_lib.wire.http_errors import AccessRefused, HostNotAllowed, MalformedHost, OriginNotAllowed
from neuron_service.asgi import READING_METHODS

__all__ = ("ANY", "AccessRules", "is_loopback")

ANY: Final = "*"
"""An entry of `allowed_hosts`, `allowed_origins` or `cors_origins` that allows every host or every origin."""

_ANYWHERE: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound
"""The addresses that a listener on all interfaces is bound to. They are not names of a server."""
_LONGEST_HOST: Final = 300
"""In bytes. A name in the DNS has at most 253 bytes."""
_LARGEST_PORT: Final = 65535
_AUTHORITY: Final = re.compile(
    r"(?:(?P<name>[a-z0-9._-]+)|\[(?P<v6>[0-9a-f.]*:[0-9a-f:.]*)\])(?::(?P<port>[0-9]{0,5}))?"
)
_ORIGIN: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/]*)")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class _Authority(NamedTuple):
    name: str
    """In lower case, without brackets and without a dot at the end. An address is in its usual spelling."""
    port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Which hosts and origins requests may name. Lives as long as the listener.

    With `takes_any_host` a request may name any host. Without, it may name `localhost`, a loopback address or one of
    `hosts`. A request that changes something may have no `Origin`, the server's own, or one of `origins`.
    """

    takes_any_host: bool
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()

    @classmethod
    def for_listener(
        cls,
        sock: socket.socket,
        *,
        own_name: str = "localhost",
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
    ) -> Self:
        """The rules for requests that come through `sock`.

        `own_name` is the name or address in the configuration. It may differ from that of `sock`, which systemd may
        have opened. A listener that other machines can reach takes any host, unless `allowed_hosts` names some.
        """
        reaches_others = not is_loopback(sock) and not allowed_hosts
        return cls(
            takes_any_host=reaches_others or ANY in allowed_hosts,
            hosts=frozenset(_canonical(host.lower().strip("[]")) for host in (own_name, *allowed_hosts)) - _ANYWHERE,
            origins=frozenset(origin.lower().rstrip("/") for origin in allowed_origins),
        )

    def refusal(self, method: str, http_version: str, headers: Iterable[tuple[bytes, bytes]]) -> AccessRefused | None:
        """Why this request is refused, or None if it may be answered. The names of `headers` are in lower case."""
        hosts: list[bytes] = []
        origins: list[bytes] = []
        for name, value in headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"origin":
                origins.append(value)
        if len(hosts) != 1 and (hosts or http_version != "1.0"):
            return MalformedHost(f"a request has one Host header, this one has {len(hosts)}")
        authority = _parse(hosts[0]) if hosts else None
        if hosts and authority is None:
            return MalformedHost(f"the Host header {_shown(hosts[0])} is no name or address with or without a port")
        if authority is not None and not self._takes(authority.name):
            return HostNotAllowed(
                f"this server does not answer for the host {clip(authority.name)!r}: if it should, add the name to "
                "`allowed_hosts` in its configuration"
            )
        if not origins or method in READING_METHODS or ANY in self.origins:
            return None
        if len(origins) == 1 and self._trusts(origins[0], authority):
            return None
        return OriginNotAllowed(
            f"a page of the origin {_shown(b', '.join(origins))} may not change anything here: if it should, add the "
            "origin to `cors_origins` below `[http]` in the server's configuration"
        )

    def _takes(self, name: str) -> bool:
        return self.takes_any_host or name in self.hosts or _is_local(name)

    def _trusts(self, raw_origin: bytes, host: _Authority | None) -> bool:
        """Whether an origin is one of those allowed, or the server's own.

        The server's own origin has the host and the port of the request. That host must be an address or a name of this
        server. If any name were accepted, a page could have the server's own origin after DNS rebinding.
        """
        origin = raw_origin.decode("latin-1").lower()
        match = _ORIGIN.fullmatch(origin)
        if match is None:
            return False
        if origin in self.origins:
            return True
        theirs, default_port = _parse(match["authority"].encode("latin-1")), _DEFAULT_PORTS.get(match["scheme"])
        if theirs is None or default_port is None or host is None or theirs.name != host.name:
            return False
        is_ours = _is_local(host.name) or host.name in self.hosts or _is_address(host.name)
        return is_ours and (theirs.port or default_port) == (host.port or default_port)


def is_loopback(sock: socket.socket) -> bool:
    """Whether only programs and browsers of this machine can reach a listening socket.

    False for a Unix socket: no browser reaches it, and its clients may send any `Host`.
    """
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    address: str = sock.getsockname()[0]
    return _is_local(_canonical(address.partition("%")[0]))


def _parse(raw: bytes) -> _Authority | None:
    if len(raw) > _LONGEST_HOST:
        return None
    match = _AUTHORITY.fullmatch(raw.decode("latin-1").lower())
    if match is None:
        return None
    port = int(match["port"]) if match["port"] else None
    name = _canonical(match["name"] or match["v6"])
    if not name or (port or 0) > _LARGEST_PORT or (match["v6"] and not _is_address(name)):
        return None
    return _Authority(name, port)


def _canonical(name: str) -> str:
    name = name.removesuffix(".")
    try:
        address = ip_address(name)
    except ValueError:
        return name
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_local(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ip_address(name).is_loopback)


def _shown(raw: bytes) -> str:
    return repr(clip(raw.decode("latin-1")))
