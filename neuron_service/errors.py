"""From exceptions to answers, in one place, with one log line per refusal."""

import logging
from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException

from neuron_lib.errors import EngineFailed, InvalidRequest, NeuronError, cause_chain
from neuron_lib.wire.openai_errors import HttpError, to_http_error

__all__ = ("EXCEPTION_HANDLERS", "answer", "log_refusal", "respond")

logger = logging.getLogger(__name__)


def answer(error: HttpError) -> Response[bytes]:
    """The error as a response."""
    headers = {} if error.retry_after is None else {"retry-after": error.retry_after}
    return Response(error.body, status_code=error.status, media_type=MediaType.JSON, headers=headers)


def log_refusal(request: Request[Any, Any, Any], error: NeuronError, http: HttpError) -> None:
    """One WARNING with what was refused, why, and the numbers behind it; never with what the client wrote."""
    logger.warning(
        "request refused: %s",
        cause_chain(error),
        extra={"method": request.method, "path": request.url.path, "status": http.status, "code": http.code}
        | {f"error_{name}": value for name, value in error.fields.items()},
    )


def respond(
    request: Request[Any, Any, Any], error: NeuronError, mapping: Callable[[NeuronError], HttpError]
) -> Response[bytes]:
    """Answer `error` by a mapping of its own, for the routes that speak another dialect."""
    http = mapping(error)
    log_refusal(request, error, http)
    return answer(http)


def _answer_neuron_error(request: Request[Any, Any, Any], error: NeuronError) -> Response[bytes]:
    return respond(request, error, to_http_error)


def _answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """What Litestar itself refuses: unknown paths and methods, bodies that are too large or end early."""
    refusal = InvalidRequest(error.detail or "the request cannot be answered")
    http = to_http_error(refusal)
    if error.status_code in {404, 405}:
        http = HttpError(
            status=error.status_code, body=http.body, retry_after=None, code=http.code, type=http.type
        )
    log_refusal(request, refusal, http)
    response = answer(http)
    if allow := (error.headers or {}).get("Allow"):
        response.headers["allow"] = allow
    return response


def _answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.error("bug in a route", exc_info=error, extra={"method": request.method, "path": request.url.path})
    failure = EngineFailed("internal error")
    failure.__cause__ = error
    return answer(to_http_error(failure))


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    NeuronError: _answer_neuron_error,
    HTTPException: _answer_http_exception,
    Exception: _answer_bug,
}
