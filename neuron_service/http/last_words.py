"""The answers that a connection gives by itself, to bytes that never become a request of the application."""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, TypeAlias

from neuron_lib.errors import NeuronError
from neuron_lib.wire.http_errors import ErrorAnswer

__all__ = ("CONTINUE", "Refusals", "to_bytes")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
"""By status, its reason phrase. HTTP does not define every status that an API has, for example Anthropic's 529."""

Refusals: TypeAlias = Callable[[NeuronError, str], ErrorAnswer]
"""The answer to a request that is refused with an error, in the shape that clients of its path expect. The path is ""
if the request has not named one yet.
"""


def to_bytes(answer: ErrorAnswer, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole response of HTTP/1.1, the last one on its connection."""
    headers = [
        *default_headers,
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer.body)),
        (b"connection", b"close"),
        *((name.encode(), value.encode()) for name, value in answer.headers),
    ]
    status_line = b"HTTP/1.1 %d %b\r\n" % (answer.status, _PHRASES.get(answer.status, b""))
    return status_line + b"".join(b"%s: %s\r\n" % header for header in headers) + b"\r\n" + answer.body
