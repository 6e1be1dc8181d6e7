"""Errors as HTTP answers: one table from error class to status and type, and three body shapes (wire contract §1.0).

Decides answers and sends none. Inference and body-decoding errors are nested, model management is flat, preflight
refusals are tagged with a kind.
"""

import json
import re
from typing import Any, Final

from msgspec import Struct

from neuron_lib.errors import (
    AlreadyLoaded,
    InvalidRequest,
    ModelLoading,
    ModelNotLoaded,
    NeuronError,
    NoHarness,
    Overloaded,
    OverloadReason,
    PreflightFailed,
    PreflightKind,
    PromptTooLong,
    RequestRejected,
    ShuttingDown,
    SourceUnavailable,
    SuspectRequest,
    TemplateFailed,
    UnsupportedCapability,
    WrongModality,
    cause_chain,
)
from neuron_lib.shown import LONGEST_MESSAGE, clip
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_lib.wire.management import MissingModelId

__all__ = (
    "HttpError",
    "capabilities_unknown",
    "cuda_unavailable",
    "envelope",
    "load_error",
    "not_resident",
    "to_http_error",
    "unload_error",
)

_INVALID: Final = "invalid_request_error"
_RATE_LIMIT: Final = "rate_limit_error"
_API: Final = "api_error"

_TABLE: Final[tuple[tuple[type[NeuronError], int, str], ...]] = (
    (UnsupportedMediaType, 415, _INVALID),
    (InvalidRequest, 400, _INVALID),
    (PromptTooLong, 400, _INVALID),
    (TemplateFailed, 422, _INVALID),
    (UnsupportedCapability, 400, _INVALID),
    (WrongModality, 422, _INVALID),
    # OpenAI's clients repeat 5xx, 429 and 409 by themselves, and each repetition would cost a life.
    (SuspectRequest, 400, _INVALID),
    (ModelLoading, 503, _API),
    (ModelNotLoaded, 404, _INVALID),
    (Overloaded, 503, _RATE_LIMIT),
    (ShuttingDown, 503, _API),
    (NoHarness, 503, _API),
)
"""The first row whose class fits decides; what fits none is our own failure: 500, no code."""

_ALREADY_LOADED: Final = re.compile(rb"already loaded", re.IGNORECASE)


class HttpError(Struct, frozen=True, kw_only=True):
    """An answer that reports an error. `retry_after` is the header's value: whole seconds, None for no header.

    `type` and `code` are those of the body, or what they would be where the body's shape has no place for them.
    """

    status: int
    body: bytes
    retry_after: str | None
    code: str | None
    type: str


class _Verdict(Struct, frozen=True):
    status: int
    type: str
    code: str | None


def to_http_error(error: NeuronError) -> HttpError:
    """The answer to an inference request, or to a body that cannot be decoded (wire contract §1.0)."""
    return _answer(_judge(error), envelope(error), error)


def envelope(error: NeuronError) -> bytes:
    """OpenAI's nested error body, also the payload of an error in mid-stream; `error.fields` are extra keys."""
    verdict = _judge(error)
    param = error.param if isinstance(error, InvalidRequest) else None
    own = {"message": cause_chain(error), "type": verdict.type, "code": verdict.code, "param": param}
    return _encode({"error": own | {key: value for key, value in error.fields.items() if key not in own}})


def load_error(error: NeuronError) -> HttpError:
    """The answer to a failed `POST /models/load` (wire contract §1.5).

    The gateway takes any answer with the words "already loaded" for success, whatever its status, so they are
    written over unless they are true.
    """
    match error:
        case AlreadyLoaded():
            return _answer(_Verdict(400, _INVALID, error.code), _flat(cause_chain(error)), error)
        case PreflightFailed():
            verdict = _Verdict(422, _INVALID, error.code)
            body = _kind_tagged(error.kind, error)
        case SourceUnavailable():
            verdict = _Verdict(422, _API, error.code)
            body = _kind_tagged(PreflightKind.REPO_FETCH_FAILED, error)
        case ShuttingDown() | NoHarness() | Overloaded():
            verdict = _judge(error)
            body = _flat(cause_chain(error), code=verdict.code)
        case UnsupportedMediaType() | MalformedJson():
            verdict = _judge(error)
            body = envelope(error)
        case InvalidRequest():
            # OpenAI has no such route; a wrong shape is what it is in the contract.
            verdict = _Verdict(422, _INVALID, error.code)
            body = envelope(error)
        case _:
            verdict = _Verdict(400, _INVALID, error.code)
            body = _flat(cause_chain(error))
    return _answer(verdict, _ALREADY_LOADED.sub(b"already resident", body), error)


def unload_error(error: NeuronError) -> HttpError:
    """The answer to a failed `POST /models/unload`: 404 unless the body was to blame (wire contract §1.6)."""
    match error:
        case MissingModelId():
            return _answer(_Verdict(400, _INVALID, error.code), _flat(cause_chain(error)), error)
        case InvalidRequest():
            return to_http_error(error)
        case _:
            return _answer(_Verdict(404, _INVALID, error.code), _flat(cause_chain(error)), error)


def not_resident(model_id: str) -> HttpError:
    """The answer to a question about a model that is not here (wire contract §1.7)."""
    error = ModelNotLoaded(model_id)
    return _answer(_judge(error), _flat(error.message), error)


def capabilities_unknown(model_id: str) -> HttpError:
    """The answer of a host that cannot say what a model could do, which is not the same as "nothing" (§1.7)."""
    error = ModelNotLoaded(model_id)
    return _answer(_judge(error), _flat(f"this host does not know what model {clip(model_id)!r} can do"), error)


def cuda_unavailable(reason: str) -> HttpError:
    """The answer to every load on a host whose GPUs cannot be used (wire contract §1.5)."""
    code = "cuda_unavailable"
    reason = clip(reason, LONGEST_MESSAGE)
    body = _ALREADY_LOADED.sub(b"already resident", _flat(reason, code=code))
    return HttpError(status=503, body=body, retry_after=None, code=code, type=_API)


def _judge(error: NeuronError) -> _Verdict:
    if isinstance(error, Overloaded) and error.reason is OverloadReason.ENGINE_LOST:
        # Not too many requests but a model on its way back: limiting the rate would not help.
        return _Verdict(503, _API, "service_unavailable")
    for error_class, status, error_type in _TABLE:
        if isinstance(error, error_class):
            return _Verdict(status, error_type, error.code)
    return _Verdict(500, _API, None)


def _answer(verdict: _Verdict, body: bytes, error: NeuronError) -> HttpError:
    retry_after_s = error.retry_after_s if isinstance(error, RequestRejected) else None
    return HttpError(
        status=verdict.status,
        body=body,
        retry_after=None if retry_after_s is None else str(retry_after_s),
        code=verdict.code,
        type=verdict.type,
    )


def _flat(text: str, *, code: str | None = None) -> bytes:
    return _encode({"error": text} if code is None else {"error": text, "code": code})


def _kind_tagged(kind: PreflightKind, error: NeuronError) -> bytes:
    chain = cause_chain(error)
    cause = {"cause": chain} if kind is PreflightKind.REPO_FETCH_FAILED else {}
    return _encode({"error": {"kind": kind, "message": chain} | cause | error.fields})


def _encode(body: dict[str, Any]) -> bytes:
    """JSON of whatever an error carries: a path or a log line may hold bytes that are no text, which become `?`."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=str)
    return escape_line_breaks(text.encode(errors="replace"))
