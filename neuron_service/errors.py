"""Exceptions of routes as answers, in the shape of the path that was asked for."""

from collections.abc import Callable
from typing import Any

from litestar import Request, Response
from litestar.enums import MediaType
from litestar.exceptions import HTTPException, InternalServerException

from neuron_lib.errors import InvalidRequest, NeuronError
from neuron_lib.logs import get_logger
from neuron_lib.wire.http_errors import BodyTooLarge, ErrorAnswer, UnknownMethod, UnknownPath
from neuron_service.exchange import exchange_of
from neuron_service.refusals import allowed_methods, answer_to_bug, log_refusal, render

__all__ = ("EXCEPTION_HANDLERS", "respond", "response")

logger = get_logger(__name__)


def response(answer: ErrorAnswer) -> Response[bytes]:
    """`answer` as Litestar's response."""
    return Response(answer.body, status_code=answer.status, media_type=MediaType.JSON, headers=dict(answer.headers))


def respond(
    request: Request[Any, Any, Any], error: NeuronError, shape: Callable[[NeuronError], ErrorAnswer], **fields: str
) -> Response[bytes]:
    """The response to a request that is refused with `error`, in `shape`. Also logs the refusal, with `fields`."""
    answer = shape(error)
    log_refusal(error, answer, exchange_of(request.scope), **fields)
    return response(answer)


def _respond_in_shape_of_path(request: Request[Any, Any, Any], error: NeuronError) -> Response[bytes]:
    return respond(request, error, lambda error: render(error, request.url.path))


def _respond_to_http_exception(request: Request[Any, Any, Any], exception: HTTPException) -> Response[bytes]:
    """Answer what Litestar refuses: unknown paths and methods, and bodies that are too large or end too early."""
    # Litestar raises `InternalServerException` for a client that hangs up before its body is complete.
    if exception.status_code >= 500 and type(exception) is not InternalServerException:
        return _respond_to_bug(request, exception)
    return _respond_in_shape_of_path(request, _translated(request, exception))


def _translated(request: Request[Any, Any, Any], exception: HTTPException) -> NeuronError:
    unreadable = f"the request cannot be read: {exception.detail}"
    match exception.status_code:
        case 404:
            return UnknownPath()
        case 405:
            allow = (exception.headers or {}).get("allow", "")
            return UnknownMethod(request.method, allow=allowed_methods(allow))
        case 413:
            return BodyTooLarge(unreadable)
        case _:
            return InvalidRequest(unreadable)


def _respond_to_bug(request: Request[Any, Any, Any], bug: Exception) -> Response[bytes]:
    exchange = exchange_of(request.scope)
    logger.error("bug in a route", exc_info=bug, extra=exchange.labels | exchange.target)
    return response(answer_to_bug(bug, request.scope))


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    NeuronError: _respond_in_shape_of_path,
    HTTPException: _respond_to_http_exception,
    Exception: _respond_to_bug,
}
