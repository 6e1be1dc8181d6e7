"""Where a neuron is. Pure: reads texts, opens nothing."""

import re
from dataclasses import dataclass, replace
from typing import Final, Literal
from urllib.parse import urlsplit

__all__ = ("DEFAULT_ADDRESS", "DEFAULT_PORT", "Address", "parse_address")

DEFAULT_PORT: Final = 13131
_HIGHEST_PORT: Final = 65535
_LONGEST: Final = 2048
_LONGEST_SOCKET_PATH: Final = 107
_NAME: Final = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - nothing is bound
"""The address of this machine that reaches a service which listens on all addresses."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Address:
    """The address of a neuron. `host` is the path of the socket if `scheme` is `unix`.

    `prefix` stands before each path, as behind a proxy: `/neuron`. `checks_certificate` is false only for the daemon of
    this machine's own configuration, whose certificate is for the name that others use.
    """

    scheme: Literal["http", "https", "unix"] = "http"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    prefix: str = ""
    checks_certificate: bool = True

    def __str__(self) -> str:
        """The address as `parse_address` reads it."""
        if self.scheme == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"

    @property
    def url(self) -> str:
        """The base of the URLs. A Unix socket has `http://localhost`."""
        return "http://localhost" if self.scheme == "unix" else str(self)


DEFAULT_ADDRESS: Final = Address()


def parse_address(text: str, *, default_port: int = DEFAULT_PORT) -> Address:
    """Read `HOST`, `HOST:PORT`, `:PORT`, `http://…`, `https://…` or `unix:/PATH`.

    An address without a scheme has `default_port` where it names no port; one with a scheme has that of the scheme. The
    address of all interfaces (`0.0.0.0`, `::`), at which a service may listen, stands for this machine. Raises
    `ValueError` with a sentence.
    """
    text = text.strip()
    if len(text) > _LONGEST or not text.isprintable() or " " in text:
        raise _no_address(text)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or not 1 < len(path.encode()) <= _LONGEST_SOCKET_PATH:
            raise _no_address(text)
        return Address(scheme="unix", host=path, port=0)
    if not text.isascii():
        raise _no_address(text)
    if "://" in text:
        return _parse_url(text)
    if text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    address = _parse_url(f"http://{text}" if text else "http://:")
    has_port = re.search(r":[0-9]+$", text.rpartition("]")[2].partition("/")[0]) is not None
    return address if has_port else replace(address, port=default_port)


def _parse_url(text: str) -> Address:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _no_address(text) from None
    scheme = parts.scheme.lower()
    if scheme not in _SCHEME_PORTS:
        raise _no_address(text)
    if "@" in parts.netloc:
        raise ValueError("an address has no user and no password; a key belongs into NEURON_API_KEY")
    if parts.query or parts.fragment or port == 0:
        raise _no_address(text)
    host = parts.hostname or ""
    if not (host == "" or ":" in host or _NAME.fullmatch(host)):  # an address of IPv6 was read by `urlsplit`
        raise _no_address(text)
    return Address(
        scheme="https" if scheme == "https" else "http",
        host=_HERE.get(host, host),
        port=_SCHEME_PORTS[scheme] if port is None else port,
        prefix=parts.path.rstrip("/"),
    )


def _no_address(text: str) -> ValueError:
    shown = text if len(text) <= 100 else f"{text[:100]}…"
    return ValueError(
        f"{shown!r} is not the address of a neuron, such as gpu1, gpu1:{DEFAULT_PORT}, https://gpu1.example or "
        "unix:/run/neuron/socket"
    )
