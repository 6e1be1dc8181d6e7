"""From exceptions to answers, in one place, with one log line per refusal."""

import logging
from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, InternalServerException
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError, PreflightFailed, cause_chain
from neuron_lib.wire.openai_errors import HttpError, to_http_error

__all__ = (
    "EXCEPTION_HANDLERS",
    "UnknownMethod",
    "UnknownPath",
    "allowed_methods",
    "answer",
    "error_fields",
    "internal_error",
    "log_refusal",
    "respond",
)

logger = logging.getLogger(__name__)


class UnknownPath(InvalidRequest):
    """There is no such path."""

    code = "not_found"


class UnknownMethod(InvalidRequest):
    """There is such a path, for other methods."""

    code = "method_not_allowed"


def answer(error: HttpError) -> Response[bytes]:
    """The error as a response."""
    headers = {} if error.retry_after is None else {"retry-after": error.retry_after}
    return Response(error.body, status_code=error.status, media_type=MediaType.JSON, headers=headers)


def error_fields(error: NeuronError) -> dict[str, Any]:
    """What is behind an error for a log record, which has attributes of its own that it must not touch."""
    kind = {"kind": error.kind} if isinstance(error, PreflightFailed) else {}
    return {f"error_{name}": value for name, value in (kind | error.fields).items()}


def internal_error(bug: Exception) -> NeuronError:
    """What a client is told of a bug: all of it, because the gateway's log is where somebody will look first."""
    error = NeuronError("internal error")
    error.__cause__ = bug
    return error


def respond(
    request: Request[Any, Any, Any], error: NeuronError, mapping: Callable[[NeuronError], HttpError], **fields: str
) -> Response[bytes]:
    """Answer `error` as `mapping` says, and log it: one WARNING with what was refused, why, and the numbers behind it,
    never with a message of a chat. `fields` are for the log alone.
    """
    http = mapping(error)
    log_refusal(error, http, method=request.method, path=request.url.path, **fields)
    return answer(http)


def log_refusal(error: NeuronError, http: HttpError, *, method: str, path: str, **fields: str) -> None:
    """The WARNING of `respond`, for what is refused before it reaches a route."""
    logger.warning(
        "request refused: %s",
        cause_chain(error),
        extra={"method": method, "path": path, "status": http.status, "type": http.type, "code": http.code}
        | fields
        | error_fields(error),
    )


def _answer_neuron_error(request: Request[Any, Any, Any], error: NeuronError) -> Response[bytes]:
    return respond(request, error, to_http_error)


def _answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What Litestar itself refuses: unknown paths and methods, bodies that are too large or end early."""
    if error.status_code >= 500 and type(error) is not InternalServerException:  # that one: the client hung up early
        return _answer_bug(request, error)
    status = 400
    refusal = InvalidRequest(f"the request cannot be read: {error.detail}")
    if error.status_code == 404:
        status, refusal = 404, UnknownPath("there is nothing at this path")
    elif error.status_code == 405:
        status, refusal = 405, UnknownMethod(f"this path does not answer {request.method}")
    response = respond(request, refusal, lambda refusal: replace(to_http_error(refusal), status=status))
    if status == 405:
        response.headers["allow"] = allowed_methods((error.headers or {}).get("allow", ""))
    return response


def allowed_methods(litestars: str) -> str:
    """The methods of a path, of which Litestar lists one too many and one too few."""
    methods = set(litestars.split(", ")) - {"OPTIONS", ""}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def _answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.error("bug in a route", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return answer(to_http_error(internal_error(error)))


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    NeuronError: _answer_neuron_error,
    HTTPException: _answer_http_exception,
    Exception: _answer_bug,
}
