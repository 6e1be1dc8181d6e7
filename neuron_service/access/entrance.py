"""The entrance of the service: from a request to its `Caller`, or to the refusal of the request.

`EntranceRules` decide and are never changed. `Entrance` has the rules that count now, and says the doubts about the
set-up of the network, each once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from neuron_lib.changes import Changes
from neuron_lib.logs import get_logger
from neuron_lib.types import AccessState, Principal
from neuron_lib.wire.http_errors import AccessRefused, KeyNotAllowed, MalformedIdentity, Unauthenticated
from neuron_service.access.keys import Key, KeyRing
from neuron_service.access.networks import LocalUser, Networks, Place, client_behind, parse_address, shown
from neuron_service.access.scopes import OPEN_PATHS, SCOPES, needed_scope
from neuron_service.access.scopes import Scope as ScopeName
from neuron_service.asgi import PEER, Scope

__all__ = ("Caller", "Entrance", "EntranceRules", "Request")

logger = get_logger(__name__)

_LONGEST_ID: Final = 256
"""The longest account id and key id of a gateway, in characters."""
_MOST_SECRETS: Final = 4
"""The most texts of one request that are looked up as keys."""
_ACCOUNT: Final = b"x-helexa-account-id"
_KEY: Final = b"x-helexa-key-id"
_READ: Final = frozenset({b"authorization", b"x-api-key", b"x-forwarded-for", _ACCOUNT, _KEY})
_BEARER: Final = b"bearer "
_NAMED: Final = {"private": "private networks"}
"""What an entry of `trusted_networks` is called in a sentence, if it is called otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who sent a request, as far as it is known. Lives as long as the request.

    `principal` is whom the request counts for, None for nobody in particular. `place` is where it comes from, as text:
    an address, `user:1000`, or `unknown`. `is_trusted` if that place may ask without a key. `scopes` are what the
    caller may do: everything from a trusted place, and nothing for a stranger, who gets answers at open paths only.
    """

    principal: Principal | None
    place: str
    is_trusted: bool
    scopes: frozenset[ScopeName]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a request shows of its sender. `nearest` is who has opened the connection: the client, or a proxy."""

    method: str
    path: str
    nearest: Place
    forwarded: tuple[bytes, ...]
    secrets: tuple[bytes, ...]
    identity: tuple[str, str] | None
    """The account and the key that a gateway has written. None if one of them is missing or empty."""

    @classmethod
    def of(cls, scope: Scope) -> "Request":
        """What the scope of ASGI has of it. The names of its headers are in lower case."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            if name in _READ:
                found.setdefault(name, []).append(value)
        # As for every header that is read once, the last one counts if a header is there twice.
        account, key = (found.get(name, [b""])[-1].decode("latin-1") for name in (_ACCOUNT, _KEY))
        bearers = (value.strip() for value in found.get(b"authorization", ()))
        secrets = (
            *(value[len(_BEARER) :].strip() for value in bearers if value[: len(_BEARER)].lower() == _BEARER),
            *(value.strip() for value in found.get(b"x-api-key", ())),
        )
        return cls(
            method=scope["method"],
            path=scope["path"],
            nearest=_nearest(scope),
            forwarded=tuple(found.get(b"x-forwarded-for", ())),
            secrets=secrets,
            identity=(account, key) if account and key else None,
        )


class Doubt(Enum):
    """What may be wrong with the set-up of the network, seen in one request. The value is said to the operator."""

    PROXY = (
        "a trusted caller has sent X-Forwarded-For and is none of `trusted_proxies`, so whoever is behind it needs no "
        "key either: right for a gateway that checks its clients, but a proxy that lets strangers in must be named"
    )
    GATEWAY = (
        "the x-helexa headers of a caller are ignored, because it is in none of `trusted_networks`: all of its "
        "requests count for its key"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntranceRules:
    """Who is let in. `trusted` callers need no key; None trusts everybody. `proxies` may name who is behind them."""

    trusted: Networks | None = None
    proxies: Networks | None = None
    keys: KeyRing = field(default_factory=KeyRing)

    def judge(self, request: Request) -> Caller | AccessRefused:
        """Who asks, or why the request is refused.

        From a trusted place a key that is not known means nothing: clients of a gateway send one that is the gateway's.
        What a gateway says of the caller counts from a trusted place only, and before a key.
        """
        place = self._place(request)
        is_trusted = self.trusted is None or self.trusted.has(place)
        key = self._key(request.secrets)
        if not is_trusted and request.path not in OPEN_PATHS and (refused := self._refusal(request, place, key)):
            return refused
        principal = None if key is None else Principal(f"key:{key.name}", key.name)
        if is_trusted and request.identity is not None:
            if max(map(len, request.identity)) > _LONGEST_ID:
                return MalformedIdentity(f"an x-helexa id has more than {_LONGEST_ID} characters")
            principal = Principal(*request.identity)
        scopes = frozenset(SCOPES) if is_trusted else frozenset() if key is None else key.scopes
        return Caller(principal=principal, place=shown(place), is_trusted=is_trusted, scopes=scopes)

    def doubts(self, request: Request, caller: Caller) -> Iterable[Doubt]:
        """What this request shows about the network that an operator should know."""
        if request.forwarded and caller.is_trusted and self.trusted is not None and not self._is_proxy(request.nearest):
            yield Doubt.PROXY
        if request.identity is not None and not caller.is_trusted:
            yield Doubt.GATEWAY

    def state(self) -> AccessState | None:
        """Who is let in, for `/health`. None if everybody is."""
        if self.trusted is None:
            return None
        return AccessState(
            summary=self.in_words(),
            trusted_networks=self.trusted.entries,
            trusted_proxies=() if self.proxies is None else self.proxies.entries,
            keys=len(self.keys),
        )

    def in_words(self) -> str:
        """Who is let in, in one line for people."""
        if self.trusted is None:
            return "nobody needs a key"
        count, trusted = len(self.keys), _in_row(_NAMED.get(each, each) for each in self.trusted.entries)
        keys = "the one key" if count == 1 else f"one of {count} keys"
        if not trusted:
            return f"every caller needs {keys}"
        others = f"all others need {keys}" if count else "all others are refused, because there are no keys"
        return f"callers from {trusted} need no key, {others}"

    def _place(self, request: Request) -> Place:
        if self.proxies is None:
            return request.nearest
        return client_behind(request.nearest, request.forwarded, proxies=self.proxies)

    def _is_proxy(self, place: Place) -> bool:
        return self.proxies is not None and self.proxies.has(place)

    def _key(self, secrets: tuple[bytes, ...]) -> Key | None:
        """The first known key of a request. A client may send two of which one is for another server."""
        return next((key for secret in secrets[:_MOST_SECRETS] if (key := self.keys.find(secret))), None)

    def _refusal(self, request: Request, place: Place, key: Key | None) -> AccessRefused | None:
        if key is None:
            why = self._why_not(place, has_secret=bool(request.secrets))
            return Unauthenticated(why, summary=f"{why} (asked from {shown(place)})")
        needed = needed_scope(request.method, request.path)
        if needed is None or needed in key.scopes:
            return None
        why = (
            f"the API key {key.name} lacks the scope {needed!r} of this request; it has {', '.join(sorted(key.scopes))}"
        )
        return KeyNotAllowed(why, scope=needed, summary=f"{why} (asked from {shown(place)})")

    def _why_not(self, place: Place, *, has_secret: bool) -> str:
        if not self.keys:
            return (
                f"{shown(place)} is in none of this server's `trusted_networks`, and there are no API keys: its "
                "operator can add the network, or make a key with `neuron key new`"
            )
        if has_secret:
            return "this server does not know the API key of the request"
        return "this server wants an API key, as `Authorization: Bearer KEY` or `x-api-key: KEY`"


class Entrance:
    """Who is let in now. One for a service, on its event loop. Rules are replaced as a whole."""

    def __init__(self, rules: EntranceRules) -> None:
        self._rules = rules
        self._said: set[Doubt] = set()
        self._replaced = Changes()

    @property
    def rules(self) -> EntranceRules:
        """The rules that count for the next request."""
        return self._rules

    def replace(self, rules: EntranceRules) -> None:
        """Let `rules` count from the next request on. Requests under way go on, but for `wait_refused`."""
        self._rules = rules
        self._said.clear()
        self._replaced.notify()

    def admit(self, scope: Scope) -> Caller | AccessRefused:
        """Who sent the request with this scope, or why the request is refused."""
        request = Request.of(scope)
        verdict = self._rules.judge(request)
        if isinstance(verdict, Caller):
            for doubt in self._rules.doubts(request, verdict):
                if doubt not in self._said:
                    self._said.add(doubt)
                    logger.warning("%s", doubt.value, extra={"client": shown(request.nearest)})
        return verdict

    async def wait_refused(self, scope: Scope) -> None:
        """Wait until the rules would refuse the request with this scope. That may never be."""
        request = Request.of(scope)
        await self._replaced.until(lambda: isinstance(self._rules.judge(request), AccessRefused))


def _nearest(scope: Scope) -> Place:
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    if peer := extensions.get(PEER):
        return LocalUser(peer["uid"])
    client = scope.get("client")
    return parse_address(client[0]) if client else None


def _in_row(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *others, last = [*names] or [""]
    return f"{', '.join(others)} and {last}" if others else last
