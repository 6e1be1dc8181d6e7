"""What a connection answers by itself: to bytes that never become a request of the application."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TypeAlias

from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError
from neuron_lib.wire.openai_errors import HttpError, to_http_error

__all__ = ("CONTINUE", "MalformedHttp", "Refusals", "RequestTimeout", "openai_refusal", "to_bytes")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Refusals: TypeAlias = Callable[[NeuronError, str], HttpError]
"""The answer to a request that is refused with an error, in the form that clients of its path expect. The path is ""
where the request has not named one yet.
"""


class MalformedHttp(InvalidRequest):
    """The bytes are not HTTP, or not a form of it that is understood here."""

    code = "malformed_http"
    quotes_request = False


class RequestTimeout(InvalidRequest):
    """A request did not arrive in time."""

    code = "request_timeout"
    quotes_request = False


def openai_refusal(error: NeuronError, path: str) -> HttpError:  # noqa: ARG001 - one form for every path
    """OpenAI's envelope, whatever the path."""
    answer = to_http_error(error)
    return replace(answer, status=408) if isinstance(error, RequestTimeout) else answer


def to_bytes(answer: HttpError, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole response of HTTP/1.1, the last one on its connection."""
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"connection", b"close"),
    ]
    if answer.retry_after is not None:
        headers.append((b"retry-after", answer.retry_after.encode()))
    status_line = b"HTTP/1.1 %d %b\r\n" % (answer.status, HTTPStatus(answer.status).phrase.encode())
    return status_line + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + answer.body
