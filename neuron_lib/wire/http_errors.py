"""Errors as HTTP answers, as far as all APIs agree: which status and type an error has, and which headers.

The table in this module gives each error its usual status. A dialect may choose another one for its paths, and
`management_errors` chooses those of failed loads and unloads. The dialects and `management_errors` write the bodies.
Decides answers and sends none.
"""

import json
from typing import Any, Final

from msgspec import Struct

from neuron_lib.errors import (
    InvalidRequest,
    KvWaitExpired,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    NoHarness,
    Overloaded,
    OverloadReason,
    PreflightFailed,
    PromptTooLong,
    RequestLoop,
    RequestRejected,
    ShuttingDown,
    SuspectRequest,
    TemplateFailed,
    TooLargeForKv,
    UnsupportedCapability,
    UpstreamRefused,
    WrongModality,
)
from neuron_lib.shown import clip
from neuron_lib.wire.bodies import UnsupportedMediaType
from neuron_lib.wire.line_breaks import escape_line_breaks

__all__ = (
    "API",
    "INVALID",
    "RATE_LIMIT",
    "AccessRefused",
    "BodyTooLarge",
    "ErrorAnswer",
    "HostNotAllowed",
    "HttpRefused",
    "KeyNotAllowed",
    "MalformedHost",
    "MalformedHttp",
    "MalformedIdentity",
    "OriginNotAllowed",
    "RequestTimeout",
    "Unauthenticated",
    "UnknownMethod",
    "UnknownPath",
    "Verdict",
    "encode_error",
    "error_answer",
    "judge",
)

INVALID: Final = "invalid_request_error"
"""The type of an error that the client can correct by another request."""
RATE_LIMIT: Final = "rate_limit_error"
"""The type of an error that goes away when the client sends less, or later."""
API: Final = "api_error"
"""The type of an error of this host."""


# ------------------------------------------------------------------------- errors that only an HTTP request can have


class HttpRefused(InvalidRequest):
    """Base of the errors of a request that HTTP itself refuses, before an API looks at the request."""

    quotes_request = False


class UnknownPath(HttpRefused):
    """There is nothing at this path."""

    code = "not_found"

    def __init__(self) -> None:
        super().__init__("there is nothing at this path")


class UnknownMethod(HttpRefused):
    """There is something at this path, but it answers other methods. `allow` names them, as the header does."""

    code = "method_not_allowed"

    def __init__(self, method: str, *, allow: str) -> None:
        super().__init__(f"this path does not answer {clip(method)}")
        self.allow = allow


class MalformedHttp(HttpRefused):
    """The bytes of the request are not HTTP, or not HTTP that this service understands."""

    code = "malformed_http"


class RequestTimeout(HttpRefused):
    """The head or the body of the request did not arrive in time."""

    code = "request_timeout"


class BodyTooLarge(HttpRefused):
    """The body of the request has more bytes than this service reads."""


class AccessRefused(HttpRefused):
    """Base of the errors of a request that is refused for who asks, for its `Host` or for its `Origin`."""


class Unauthenticated(AccessRefused):
    """The request needs a key and has none, or one that is not known."""

    code = "invalid_api_key"


class KeyNotAllowed(AccessRefused):
    """The key of the request is known and may not do this. `scope` is what the key lacks."""

    code = "insufficient_scope"

    def __init__(self, message: str, *, scope: str, summary: str | None = None) -> None:
        super().__init__(message, summary=summary)
        self.scope = scope


class MalformedIdentity(AccessRefused):
    """What a gateway has written about the caller cannot be one of its ids."""

    code = "malformed_identity"


class MalformedHost(AccessRefused):
    """No `Host` where there must be one, several, or one that is not a name or address with or without a port."""

    code = "malformed_host"


class HostNotAllowed(AccessRefused):
    """The request was sent to a name that does not belong to this host."""

    code = "host_not_allowed"


class OriginNotAllowed(AccessRefused):
    """A page of another origin wants to change something."""

    code = "origin_not_allowed"


# ----------------------------------------------------------------------------------------------------------- the table

_TABLE: Final[tuple[tuple[type[NeuronError], int, str], ...]] = (
    (Unauthenticated, 401, INVALID),
    (KeyNotAllowed, 403, INVALID),
    (HostNotAllowed, 403, INVALID),
    (OriginNotAllowed, 403, INVALID),
    (UnknownPath, 404, INVALID),
    (UnknownMethod, 405, INVALID),
    (RequestTimeout, 408, INVALID),
    (BodyTooLarge, 413, INVALID),
    (UnsupportedMediaType, 415, INVALID),
    (InvalidRequest, 400, INVALID),
    (PromptTooLong, 400, INVALID),
    (TemplateFailed, 422, INVALID),
    (UnsupportedCapability, 400, INVALID),
    (WrongModality, 422, INVALID),
    # A 400, because clients of OpenAI repeat 409, 429 and 5xx by themselves, and each repetition would cost an engine.
    (SuspectRequest, 400, INVALID),
    (ModelLoading, 503, API),
    (ModelNotLoaded, 404, INVALID),
    (TooLargeForKv, 413, INVALID),
    (KvWaitExpired, 503, API),
    (Overloaded, 503, RATE_LIMIT),
    (ShuttingDown, 503, API),
    (NoHarness, 503, API),
    (UpstreamRefused, 502, API),
    (RequestLoop, 508, API),
)
"""The first row whose class fits decides. An error that fits no row is a failure of this host: 500, without a code."""


class Verdict(Struct, frozen=True):
    """The status of an error, its type, and its `code`, which is None for a failure of this host."""

    status: int
    type: str
    code: str | None


def judge(error: NeuronError) -> Verdict:
    """Look the error up in the table."""
    if isinstance(error, Overloaded) and error.reason is OverloadReason.ENGINE_LOST:
        # The model comes back by itself. To send fewer requests would not help, so this is no limit of a rate.
        return Verdict(503, API, "service_unavailable")
    if isinstance(error, Overloaded) and error.reason is OverloadReason.PRINCIPAL_CAP:
        return Verdict(429, RATE_LIMIT, error.code)  # this caller is to send less; the others are served
    if isinstance(error, PreflightFailed):
        return Verdict(422, INVALID, error.kind)  # of a request whose model cannot be loaded on demand
    for error_class, status, error_type in _TABLE:
        if isinstance(error, error_class):
            return Verdict(status, error_type, error.code)
    return Verdict(500, API, None)


# ---------------------------------------------------------------------------------------------------------- the answer


_BEARER: Final = 'Bearer realm="neuron"'
"""The scheme that a 401 has to name (RFC 9110), and that a 403 may name (RFC 6750)."""


class ErrorAnswer(Struct, frozen=True, kw_only=True):
    """An HTTP answer that reports an error. Its body is JSON.

    `headers` are those beside `content-type` and `content-length`, which the sender adds. The log shows `type` and
    `code`. They are those of the body, or what they would be if the body's shape has no place for them.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    type: str
    code: str | None


def error_answer(error: NeuronError, body: bytes, verdict: Verdict | None = None) -> ErrorAnswer:
    """The answer to `error` with `body`. Without a `verdict` the status, type and code are those of the table.

    `retry-after` is a whole number of seconds. It is there only if the same request may succeed later.
    """
    verdict = judge(error) if verdict is None else verdict
    headers: list[tuple[str, str]] = []
    if isinstance(error, RequestRejected) and error.retry_after_s is not None:
        headers.append(("retry-after", str(error.retry_after_s)))
    if isinstance(error, UnknownMethod):
        headers.append(("allow", error.allow))
    if isinstance(error, Unauthenticated):
        headers.append(("www-authenticate", _BEARER))
    if isinstance(error, KeyNotAllowed):
        headers.append(("www-authenticate", f'{_BEARER}, error="insufficient_scope", scope="{error.scope}"'))
    return ErrorAnswer(status=verdict.status, headers=tuple(headers), body=body, type=verdict.type, code=verdict.code)


def encode_error(body: dict[str, Any]) -> bytes:
    """`body` as one line of JSON.

    An error may carry values of any type, and text with bytes that are not UTF-8, for example a path. Values that JSON
    does not know become their `str`, and such bytes become `?`.
    """
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=str)
    return escape_line_breaks(text.encode(errors="replace"))
