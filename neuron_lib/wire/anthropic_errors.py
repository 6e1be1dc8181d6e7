"""Errors in the shape of Anthropic's API: for `/v1/messages` and all paths below it."""

from typing import Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError, Overloaded, PromptTooLong, cause_chain
from neuron_lib.wire.http_errors import (
    API,
    INVALID,
    RATE_LIMIT,
    ErrorAnswer,
    Verdict,
    encode_error,
    error_answer,
    judge,
)

__all__ = ("AnthropicError", "ThreadUnsupported", "anthropic_error", "error_body")


class ThreadUnsupported(InvalidRequest):
    """The client asks the server to keep the conversation. No conversation is kept here.

    Anthropic's client knows this error. The client then sends the whole conversation with each request.
    """

    code = "thread_unsupported_request"


class _Details(Struct):
    error_code: str


class _Error(Struct):
    type: str
    message: str
    details: _Details | UnsetType = UNSET
    param: str | UnsetType = UNSET


class AnthropicError(Struct):
    """The shape of a body that `error_body` writes, for the description of the service."""

    type: Literal["error"]
    error: _Error
    request_id: None


_UNPROCESSABLE: Final = 422
_TOO_MANY: Final = 429
_OVERLOADED: Final = Verdict(529, "overloaded_error", Overloaded.code)

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
}
"""Statuses whose errors have a type of their own."""


def anthropic_error(error: NeuronError) -> ErrorAnswer:
    """The answer to a request that is refused or fails, in Anthropic's shape."""
    return error_answer(error, error_body(error), _verdict(error))


def error_body(error: NeuronError) -> bytes:
    """Anthropic's error body as JSON. A stream that breaks off sends the same as an event.

    `error.details` is left out of errors without a code. So is `error.param`, an addition to Anthropic's shape, where
    no value of the request is wrong. `request_id` is null: the id is in the header `request-id`.
    """
    verdict = _verdict(error)
    told: dict[str, Any] = {"type": verdict.type, "message": _message(error)}
    if verdict.code is not None:
        told["details"] = {"error_code": verdict.code}
    if isinstance(error, InvalidRequest) and error.param is not None:
        told["param"] = error.param
    return encode_error({"type": "error", "error": told, "request_id": None})


def _message(error: NeuronError) -> str:
    if isinstance(error, PromptTooLong):
        # Clients of Anthropic search for these words and numbers, and then shorten a conversation by themselves.
        return f"prompt is too long: {error.fields['prompt_len']} tokens > {error.fields['max']} maximum"
    return cause_chain(error)


def _verdict(error: NeuronError) -> Verdict:
    """The verdict of the table, with Anthropic's words.

    Anthropic has no 422. Its clients have a class for 400, and a status of its own, 529, says that a server is busy.
    """
    verdict = judge(error)
    if verdict.type == RATE_LIMIT:
        return verdict if verdict.status == _TOO_MANY else _OVERLOADED
    if verdict.type == API:
        return verdict
    status = 400 if verdict.status == _UNPROCESSABLE else verdict.status
    return replace(verdict, status=status, type=_TYPES.get(status, INVALID))
