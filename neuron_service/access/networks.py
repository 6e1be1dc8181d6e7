"""Where a request comes from, and which places are trusted. Pure, but that it asks for the users of the system."""

import pwd
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple, Self, TypeAlias

from neuron_lib.errors import ConfigError

__all__ = ("Forwarded", "LocalUser", "Networks", "Place", "client_behind", "parse_address", "shown")

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


class LocalUser(NamedTuple):
    """A program of this machine that has connected to a Unix socket, by the user that runs it."""

    uid: int


Place: TypeAlias = Address | LocalUser | None
"""Where a request comes from. None if that is not known."""
Forwarded: TypeAlias = Sequence[bytes]
"""The values of a request's `X-Forwarded-For` headers."""

_ROOT: Final = 0
_USER: Final = "user:"
_MOST_HOPS: Final = 32
"""A request that has passed more proxies than this comes from an unknown place."""
_WORDS: Final = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    # RFC 1918, unique local and link-local addresses. Not 100.64.0.0/10, which neighbours at a provider share.
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Some places. `entries` are what the operator wrote."""

    entries: tuple[str, ...]
    networks: tuple[Network, ...]
    users: frozenset[int]

    @classmethod
    def of(cls, entries: Iterable[str], *, own_uid: int) -> Self:
        """The places of entries as in the configuration: `loopback`, `private`, a network, an address, `user:NAME`.

        On a Unix socket `loopback` stands for root and the user of this process, `own_uid`. Raises `ConfigError` for a
        user that this machine does not have.
        """
        kept = tuple(entries)
        networks: list[Network] = []
        users: set[int] = set()
        for entry in kept:
            if entry.startswith(_USER):
                users.add(_uid(entry.removeprefix(_USER)))
            else:
                networks += map(ip_network, _WORDS.get(entry, (entry,)))
        if "loopback" in kept:
            users |= {_ROOT, own_uid}
        return cls(entries=kept, networks=tuple(networks), users=frozenset(users))

    @property
    def has_every_address(self) -> bool:
        """Whether all addresses of IPv4 or all of IPv6 are in it."""
        return any(network.prefixlen == 0 for network in self.networks)

    def has(self, place: Place) -> bool:
        """Whether `place` is one of them. An unknown place never is."""
        match place:
            case None:
                return False
            case LocalUser(uid):
                return uid in self.users
            case _:
                return any(place in network for network in self.networks)


def client_behind(nearest: Place, forwarded: Forwarded, *, proxies: Networks) -> Place:
    """Where a request really comes from that reached us from `nearest`.

    Only what a trusted proxy has written counts. Each proxy adds the address that it was asked from at the end. So the
    list is read from its end, and the first address that is no trusted proxy is the client. A client can write what it
    likes in front of that. None if a trusted proxy wrote something that is no address.
    """
    if not forwarded or not proxies.has(nearest):
        return nearest
    hops = b",".join(forwarded).split(b",")
    if len(hops) > _MOST_HOPS:
        return None
    place: Place = nearest
    for hop in reversed(hops):
        place = parse_address(hop.decode("latin-1").strip())
        if not proxies.has(place):
            break
    return place


def parse_address(text: str) -> Address | None:
    """The address in a text, which may have a port, and for IPv6 brackets. None if there is no address in it."""
    if text.startswith("["):
        text, closing, _ = text[1:].partition("]")
        if not closing:
            return None
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def shown(place: Place) -> str:
    """A place for people and logs."""
    match place:
        case None:
            return "unknown"
        case LocalUser(uid):
            return f"user:{uid}"
        case _:
            return str(place)


def _uid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"`{_USER}{name}` in `trusted_networks` or `trusted_proxies`: no such user here") from None
