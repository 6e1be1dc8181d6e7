"""An answer of an upstream that is no success as the error that our own client gets. Pure.

What the client can mend is passed on with its code. What only this host's operator can mend, such as a wrong key, is
`UpstreamRefused`. The text of a server may quote the request, so a log shows it only where the error class allows it.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from neuron_lib.errors import (
    EngineFailed,
    InvalidGrammar,
    InvalidRequest,
    KvWaitExpired,
    NeuronError,
    Overloaded,
    OverloadReason,
    PromptTooLong,
    RequestLoop,
    RequestRejected,
    TemplateFailed,
    TooLargeForKv,
    UnsupportedCapability,
    UpstreamRefused,
)
from neuron_lib.shown import clip, one_word

__all__ = ("QuotedFailure", "failure_of", "refusal_of")

_OPERATORS: Final = frozenset({401, 402, 403, 404, 405, 407})
"""Statuses that say something about the key or the address, which are the operator's."""
_BUSY: Final = frozenset({429, 502, 503, 529})
"""Statuses of a server that may take the request later. 502 is said by a proxy whose server is away."""
_RETRY_S: Final = 2
_LONGEST_RETRY_S: Final = 3600
_LARGEST: Final = 1 << 40
_CONTEXT_CODES: Final = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTEXT_WORDS: Final = re.compile(
    r"maximum context length|context size|context window|prompt is too long", re.IGNORECASE
)
_LIMIT: Final = re.compile(
    r"(?:maximum context length is|context size \(|context window of) ?(\d{1,12})", re.IGNORECASE
)
_ASKED: Final = re.compile(
    r"(?:has|requested|resulted in|request \() ?(?:about )?(\d{1,12})(?: input)? tokens", re.IGNORECASE
)


class QuotedFailure(EngineFailed):
    """An `EngineFailed` in the words of a server, which may quote the request."""

    quotes_request = True


class _Error(Struct):
    """The error object of OpenAI and of those who follow it. llama.cpp's server has numbers as codes."""

    message: str = ""
    code: str | int | None = None
    type: str | None = None
    param: str | None = None
    reason: str | None = None
    prompt_len: float | None = None
    max: float | None = None
    n_prompt_tokens: float | None = None
    n_ctx: float | None = None
    free_mb: float | None = None
    required_mb: float | None = None
    budget_mb: float | None = None
    hops: float | None = None
    capabilities: list[str] | None = None


class _Envelope(Struct):
    error: _Error | str | None = None
    message: str | None = None
    detail: msgspec.Raw = msgspec.Raw(b"null")


_envelope: Final = msgspec.json.Decoder(_Envelope, strict=False)
_error: Final = msgspec.json.Decoder(_Error | str, strict=False)


def failure_of(text: bytes) -> NeuronError:
    """The error inside a stream, from the JSON of its error object."""
    try:
        told = _error.decode(text)
    except (ValueError, RecursionError):
        told = _Error()
    error = _Error(message=told) if isinstance(told, str) else told
    message = f"the server broke the reply off: {clip(error.message) or 'it did not say why'}"
    return QuotedFailure(message, upstream_code=_word(error.code))


def refusal_of(status: int, headers: Mapping[str, str], body: bytes, *, model_id: str, where: str) -> NeuronError:
    """The error for an answer with this status. `where` is the address of the server, for its operator.

    `headers` have lower-case names. A `RequestRejected` in most cases, an `EngineFailed` for a failure of the server.
    """
    error = _read(body)
    if status in _BUSY:
        return _busy(status, headers, error, where=where)
    if status == 508 or error.code == RequestLoop.code:
        return RequestLoop(int(_number(error.hops)))
    if 400 <= status < 500 and status not in _OPERATORS:
        return _clients_fault(status, error, model_id=model_id)
    if status >= 500:
        return QuotedFailure(
            f"the server at {where} answered {status}: {clip(error.message) or 'it did not say why'}",
            upstream_status=status,
            upstream_code=_word(error.code),
        )
    return UpstreamRefused(_operators_fault(status, where=where, model_id=model_id), status=status)


def _operators_fault(status: int, *, where: str, model_id: str) -> str:
    match status:
        case 401 | 403 | 407:
            return f"the server at {where} did not accept this host's key ({status}): look at the key of its harness"
        case 404 | 405:
            return f"the server at {where} does not know model {clip(model_id)!r} or this API ({status})"
        case _ if 300 <= status < 400:
            return f"the server at {where} sends requests elsewhere ({status}), which is not followed: mend its `url`"
        case _:
            return f"the server at {where} answered {status}, which is no answer of such an API"


def _busy(status: int, headers: Mapping[str, str], error: _Error, *, where: str) -> RequestRejected:
    retry_after_s = _retry_after_s(headers.get("retry-after", ""), headers.get("date", ""))
    text = f"the server at {where} is busy ({status}, {_word(error.code) or 'no code'})"
    if error.code == KvWaitExpired.code:
        return KvWaitExpired(
            text,
            reason=OverloadReason.KV_WAIT_EXPIRED,
            retry_after_s=retry_after_s,
            free_mb=_number(error.free_mb),
            required_mb=_number(error.required_mb),
        )
    return Overloaded(text, reason=OverloadReason.UPSTREAM, retry_after_s=retry_after_s, upstream_status=status)


def _clients_fault(status: int, error: _Error, *, model_id: str) -> RequestRejected:
    """The refusal of a request that another request can mend."""
    code, message = _word(error.code) or _word(error.type), error.message
    numbers = _context_numbers(error)
    if numbers is not None:
        return PromptTooLong(prompt_tokens=numbers[0], limit=numbers[1], param=error.param)
    match code:
        case TemplateFailed.code:
            return TemplateFailed(message)
        case TooLargeForKv.code:
            return TooLargeForKv(
                clip(message), required_mb=_number(error.required_mb), budget_mb=_number(error.budget_mb)
            )
        case InvalidGrammar.code:
            return InvalidGrammar(message, param=error.param)
        case _ if code.endswith("_unsupported"):
            return UnsupportedCapability(message, code=code, model_id=model_id)
    text = message or f"the server did not take the request ({status})"
    refusal = InvalidRequest(text, param=error.param, upstream_status=status)
    if error.code is not None and not code.isdigit():
        refusal.code = code
    return refusal


def _context_numbers(error: _Error) -> tuple[int, int] | None:
    """The tokens of the prompt and of the context, if the prompt was too long and the server says how much."""
    if not ({_word(error.code), _word(error.type)} & _CONTEXT_CODES or _CONTEXT_WORDS.search(error.message)):
        return None
    asked, limit = error.prompt_len or error.n_prompt_tokens, error.max or error.n_ctx
    if not asked or not limit:
        found, most = _ASKED.search(error.message), _LIMIT.search(error.message)
        if found is None or most is None:
            return None
        asked, limit = float(found[1]), float(most[1])
    return _number(asked), _number(limit)


def _read(body: bytes) -> _Error:
    """The error in a body. What is none is an error without a message: a page of HTML helps nobody."""
    try:
        envelope = _envelope.decode(body)
    except (ValueError, RecursionError):
        return _Error()
    if isinstance(envelope.error, str):
        return _Error(message=envelope.error)
    if envelope.error is not None:
        return envelope.error
    detail: Any = None
    if len(envelope.detail) <= 1 << 16:
        detail = msgspec.json.decode(envelope.detail)
    return _Error(message=envelope.message or (detail if isinstance(detail, str) else ""))


def _word(code: str | int | None) -> str:
    return "" if code is None else one_word(str(code))[:64]


def _number(value: float | None) -> int:
    return int(value) if value is not None and 0 <= value <= _LARGEST else 0


def _retry_after_s(text: str, date: str) -> int:
    """`Retry-After` in seconds, which may be a time, compared with the time of the answer. Bounded."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return max(1, min(int(text[:9]), _LONGEST_RETRY_S))
    try:
        wait = (parsedate_to_datetime(text) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return _RETRY_S
    return max(1, min(int(wait), _LONGEST_RETRY_S))
