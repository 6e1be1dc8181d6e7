"""One request together with its answer: by which id it is found again, whose trace it belongs to, and how it ended.

Reads two headers, `x-request-id` and W3C's `traceparent`. Both come from strangers: a value that is not well-formed
counts as absent. Pure, except that an id may be made from random bytes, and that the clock is read.
"""

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from msgspec import Struct

from neuron_lib.shown import LONGEST_WORD, clip
from neuron_lib.types import EndedReply, Principal
from neuron_service.asgi import READING_METHODS, REQUEST_ID, Scope

__all__ = ("Exchange", "TraceParent", "exchange_of", "parse_trace", "proposed_id")

_KEY: Final = "neuron.exchange"
_ID: Final = re.compile(rb"[!-~]{1,%d}" % LONGEST_WORD)
_OWN_ID_BYTES: Final = 16
_TRACEPARENT: Final = re.compile(
    rb"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_NO_VERSION: Final = b"ff"
_FIRST_VERSION: Final = b"00"
_SAMPLED: Final = 1
_LONGEST_STATE_BYTES: Final = 512
"""W3C asks every party to pass on at least that much of a `tracestate`."""
_STATE_MEMBER: Final = re.compile(
    rb"[ \t]*(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~][ \t]*|[ \t]*"
)


class TraceParent(Struct, frozen=True, kw_only=True):
    """Whose span a request belongs to, as W3C's Trace Context has it.

    `trace_id` has 32 hexadecimal digits and `parent_id` 16. `state` is the value of `tracestate`, "" if there is none.
    """

    trace_id: str
    parent_id: str
    is_sampled: bool
    state: str = ""


@dataclass(slots=True, eq=False)
class Exchange:
    """What is known of one request and its answer so far. Lives as long as the answer is under way.

    `method` and `path` are "-" for bytes that never became a request. `status` is that of the answer, None until the
    answer has begun. `principal` is who asks, and `model_id` the id of the model that is asked, once they are known.
    `scopes` are what the caller may do, none for a stranger.
    `ended` is the account of the model's reply, None until there is one. `refusal` is the code of the error that the
    log has told of, None if it has told of none. `began_s` is the time of the monotonic clock at the begin.
    """

    request_id: str
    method: str = "-"
    path: str = "-"
    trace: TraceParent | None = None
    status: int | None = None
    principal: Principal | None = None
    scopes: frozenset[str] = frozenset()
    ended: EndedReply | None = None
    refusal: str | None = None
    model_id: str | None = None
    began_s: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Self:
        """The exchange that a request with these headers begins. The names of `headers` are in lower case."""
        headers = tuple(headers)
        return cls(
            request_id=proposed_id(headers) or secrets.token_hex(_OWN_ID_BYTES),
            method=method,
            path=path,
            trace=parse_trace(headers),
        )

    def take(self, ended: EndedReply) -> None:
        """Take the account of the model's reply."""
        self.ended = ended

    @property
    def is_question(self) -> bool:
        """Whether the request changes nothing and asks no model. Programs ask such questions again and again."""
        return self.method in READING_METHODS

    @property
    def labels(self) -> dict[str, object]:
        """What each line of the log about this request has, so that all of them are found together."""
        trace = {} if self.trace is None else {"trace_id": self.trace.trace_id}
        asker = {} if self.principal is None else {"principal": self.principal.pseudonym}
        return {"request_id": self.request_id, **trace, **asker}

    @property
    def target(self) -> dict[str, object]:
        """The method, the path, and the model if one is asked, clipped."""
        model = {} if self.model_id is None else {"model_id": clip(self.model_id)}
        return {"method": clip(self.method), "path": clip(self.path), **model}

    def took_ms(self) -> int:
        """How long the exchange has been under way."""
        return round((time.monotonic() - self.began_s) * 1000)


def exchange_of(scope: Scope) -> Exchange:
    """The exchange of the request with this scope. The first call begins the exchange."""
    exchange: Exchange | None = scope.get(_KEY)
    if exchange is None:
        exchange = scope[_KEY] = Exchange.of(scope["method"], scope["path"], scope["headers"])
    return exchange


def proposed_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id that the client gives to its request. None if there is none, several, or one that is not 1 to 128 visible
    ASCII characters.
    """
    values = [value for name, value in headers if name == REQUEST_ID]
    return values[0].decode("ascii") if len(values) == 1 and _ID.fullmatch(values[0]) else None


def parse_trace(headers: Iterable[tuple[bytes, bytes]]) -> TraceParent | None:
    """The trace that the request belongs to. None if it names none, or not as W3C says."""
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    match = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if match is None or match["version"] == _NO_VERSION or (match["version"] == _FIRST_VERSION and match["more"]):
        return None
    if not match["trace"].strip(b"0") or not match["parent"].strip(b"0"):
        return None
    state = b",".join(states)
    # OpenTelemetry would write any other state into the log.
    is_kept = len(state) <= _LONGEST_STATE_BYTES and all(map(_STATE_MEMBER.fullmatch, state.split(b",")))
    return TraceParent(
        trace_id=match["trace"].decode(),
        parent_id=match["parent"].decode(),
        is_sampled=bool(int(match["flags"], 16) & _SAMPLED),
        state=state.decode() if is_kept else "",
    )
