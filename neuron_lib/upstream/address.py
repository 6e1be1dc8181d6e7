"""Where an upstream is, the key for it, and the name of the model there. Opens no connection."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

__all__ = ("UpstreamAddress",)

_PORTS: Final = {"http": 80, "https": 443}
_SHORTEST_SECRET: Final = 6
"""Shorter tokens are words that an answer may hold for reasons of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamAddress:
    """One server with an API like OpenAI's.

    `url` is the address above `/v1`: `http(s)://HOST[:PORT][/PATH]`. With a `socket`, which is the path of a Unix
    socket, the connection goes there, and the host of `url` is only what the server reads. `model` is the server's name
    for the model. `token` is sent as the bearer token, "" sends none; neither `repr` nor an error shows it.
    Raises `ValueError` for a URL of another form.
    """

    url: str
    model: str
    token: str = field(default="", repr=False)
    socket: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("an upstream's address is http(s)://HOST[:PORT][/PATH], without user, query and fragment")
        _ = parts.port  # raises for a port that is none

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """The name or the address of the server, without the brackets of IPv6."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port that `url` names, or that of its scheme."""
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme]

    @property
    def authority(self) -> str:
        """What the header `Host` says."""
        return urlsplit(self.url).netloc

    @property
    def shown(self) -> str:
        """The address for people, without any secret."""
        return f"unix:{self.socket}" if self.socket else self.url.rstrip("/")

    def target(self, path: str) -> str:
        """The path of a request for `path`, which begins with a slash, as the server sees it."""
        return urlsplit(self.url).path.rstrip("/") + path

    def without_token(self, answer: bytes) -> bytes:
        """The answer of a server that may quote what it was sent. The token in it is covered."""
        return answer.replace(self.token.encode(), b"***") if len(self.token) >= _SHORTEST_SECRET else answer
