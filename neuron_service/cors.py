"""What a browser is told so that web pages of other origins may use this service (CORS). Pure; sends nothing.

A browser asks before a request that could change something (a *preflight*): an OPTIONS with two headers. It lets a page
read an answer only if the answer names the origin of the page.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from neuron_lib.shown import clip
from neuron_lib.wire.http_errors import OriginNotAllowed
from neuron_service.access.hosts import ANY
from neuron_service.asgi import REQUEST_ID

__all__ = ("CorsRules", "Preflight")

Headers: TypeAlias = list[tuple[bytes, bytes]]

_METHODS: Final = b"GET, HEAD, POST"
_REMEMBERED_S: Final = b"600"
"""How long a browser may remember the answer to a preflight. Chromium allows two hours, Safari ten minutes."""
_NAMES: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,4096}")
"""Names of headers, separated by commas."""
_ALWAYS_READABLE: Final = frozenset({b"cache-control", b"content-length", b"content-type"})
"""Headers of an answer that every page may read, as far as this service sends them."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """A browser's question whether a page of `origin` may send a request with the headers `asked`."""

    origin: bytes
    asked: bytes
    wants_private_network: bool


@dataclass(frozen=True, slots=True)
class CorsRules:
    """The origins whose pages may read every answer. Lives as long as the listener.

    `origins` are in lower case and without a slash at the end. They may have `ANY`.
    """

    origins: frozenset[bytes]

    @classmethod
    def of(cls, origins: Iterable[str]) -> Self:
        """The rules for origins as they are in the configuration."""
        return cls(frozenset(origin.lower().rstrip("/").encode() for origin in origins))

    @property
    def _allows_any(self) -> bool:
        return ANY.encode() in self.origins

    def preflight(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Preflight | None:
        """The preflight that a request is; None if it is none. The names of `headers` are in lower case."""
        if method != "OPTIONS":
            return None
        found = dict(headers)
        if b"origin" not in found or b"access-control-request-method" not in found:
            return None
        return Preflight(
            found[b"origin"],
            found.get(b"access-control-request-headers", b""),
            found.get(b"access-control-request-private-network") == b"true",
        )

    def judge(self, preflight: Preflight) -> Headers | OriginNotAllowed:
        """The headers of the answer to a preflight, which has no body, or why it is refused.

        Every header that is asked for is allowed: the SDKs send many, and newer ones send others. No header gives a
        page a right here.
        """
        granted = self._grant(preflight.origin)
        if granted is None:
            shown = repr(clip(preflight.origin.decode("latin-1")))
            return OriginNotAllowed(
                f"a page of the origin {shown} may not use this server: if it should, add the origin to `cors_origins` "
                "below `[http]` in the server's configuration"
            )
        headers = [
            (b"access-control-allow-origin", granted),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _REMEMBERED_S),
            (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        if _NAMES.fullmatch(preflight.asked):
            headers.append((b"access-control-allow-headers", preflight.asked))
        if preflight.wants_private_network:  # a page of a public address asks for a host of a private network
            headers.append((b"access-control-allow-private-network", b"true"))
        return headers

    def beside(self, origin: bytes | None, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
        """What an answer with `headers` has beside them, for a request of `origin`, or of none.

        The page may read all headers of the answer. `vary` keeps a cache from giving one page the answer to another.
        """
        if not self.origins:
            return []
        added = [] if self._allows_any else [(b"vary", b"Origin")]
        granted = None if origin is None else self._grant(origin)
        if granted is not None:
            added.append((b"access-control-allow-origin", granted))
            names = {name.lower() for name, _ in headers} | {REQUEST_ID}  # which every answer gets
            added.append((b"access-control-expose-headers", b", ".join(sorted(names - _ALWAYS_READABLE))))
        return added

    def _grant(self, origin: bytes) -> bytes | None:
        """The value of `access-control-allow-origin`; None if the origin is not allowed."""
        if self._allows_any:
            return b"*"
        return origin if origin.lower() in self.origins else None
