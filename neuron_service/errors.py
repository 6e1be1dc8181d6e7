"""From exceptions of a route to answers, in one place."""

from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, InternalServerException
from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError
from neuron_lib.logs import get_logger
from neuron_lib.shown import clip
from neuron_lib.wire.openai_errors import HttpError, to_http_error
from neuron_service.refusals import UnknownMethod, UnknownPath, allowed_methods, internal_error, log_refusal

__all__ = ("EXCEPTION_HANDLERS", "answer", "respond")

logger = get_logger(__name__)


def answer(error: HttpError) -> Response[bytes]:
    """The error as a response."""
    headers = {} if error.retry_after is None else {"retry-after": error.retry_after}
    return Response(error.body, status_code=error.status, media_type=MediaType.JSON, headers=headers)


def respond(
    request: Request[Any, Any, Any], error: NeuronError, mapping: Callable[[NeuronError], HttpError], **fields: str
) -> Response[bytes]:
    """Answer `error` as `mapping` says, and log it. `fields` are for the log alone."""
    http = mapping(error)
    log_refusal(error, http, method=request.method, path=request.url.path, **fields)
    return answer(http)


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
        status, refusal = 405, UnknownMethod(f"this path does not answer {clip(request.method)}")
    response = respond(request, refusal, lambda refusal: replace(to_http_error(refusal), status=status))
    if status == 405:
        response.headers["allow"] = allowed_methods((error.headers or {}).get("allow", ""))
    return response


def _answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.error("bug in a route", exc_info=error, extra={"method": request.method, "path": clip(request.url.path)})
    return answer(to_http_error(internal_error(error)))


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    NeuronError: _answer_neuron_error,
    HTTPException: _answer_http_exception,
    Exception: _answer_bug,
}
