"""What is refused: its log line, in one place, and the errors of this service's own. Knows no web framework."""

import logging
import re
from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from neuron_lib.errors import InvalidRequest, NeuronError, PreflightFailed, cause_chain
from neuron_lib.logs import get_logger
from neuron_lib.shown import clip
from neuron_lib.wire.openai_errors import HttpError, to_http_error
from neuron_service.asgi import Scope, Send

__all__ = (
    "UnknownMethod",
    "UnknownPath",
    "allowed_methods",
    "error_fields",
    "internal_error",
    "log_refusal",
    "refuse",
    "send_json",
)

logger = get_logger(__name__)

_FIELD: Final = re.compile(r"[A-Za-z_]\w{0,49}(\[\d{1,9}\])?")
"""The field of a request at the beginning of the path of a value. Further parts of the path may be keys of a client."""


class UnknownPath(InvalidRequest):
    """There is no such path."""

    code = "not_found"
    quotes_request = False


class UnknownMethod(InvalidRequest):
    """There is such a path, for other methods."""

    code = "method_not_allowed"
    quotes_request = False


def error_fields(error: NeuronError) -> dict[str, Any]:
    """The fields of an error for a log record, prefixed because a record has attributes of its own.

    An error that may quote a request keeps its numbers, the model's id, and which value was wrong.
    """
    fields = dict(error.fields)
    if isinstance(error, PreflightFailed):
        fields["kind"] = error.kind
    if error.quotes_request:
        fields = {name: value for name, value in fields.items() if name == "model_id" or isinstance(value, int | float)}
    if isinstance(error, InvalidRequest) and (field := _FIELD.match(error.param or "")):
        fields["param"] = field[0]
    return {f"error_{name}": value for name, value in fields.items()}


def internal_error(bug: Exception) -> NeuronError:
    """What a client is told of a bug: its causes as well, because the gateway's log is where somebody looks first."""
    error = NeuronError("internal error")
    error.__cause__ = bug
    return error


def log_refusal(error: NeuronError, http: HttpError, *, method: str, path: str, **fields: str) -> None:
    """Log one bounded line: what was refused and why, never with a message of a chat. `fields` are for the log alone.

    It is a WARNING, but INFO for an unknown path: any scanner asks for those, and no operator has to act.
    """
    logger.log(
        logging.INFO if isinstance(error, UnknownPath) else logging.WARNING,
        "request refused: %s",
        error.log_message,
        extra={"method": clip(method), "path": clip(path), "status": http.status, "type": http.type, "code": http.code}
        | {name: clip(value) for name, value in fields.items()}
        | error_fields(error),
    )
    if error.quotes_request:
        logger.debug("the refusal in full: %s", cause_chain(error))


def allowed_methods(litestars: str) -> str:
    """The methods of a path. Litestar's own list has OPTIONS, which is not answered, and lacks HEAD."""
    methods = set(litestars.split(", ")) - {"OPTIONS", ""}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def refuse(
    error: NeuronError, scope: Scope, send: Send, *, status: int | None = None, allow: str | None = None
) -> None:
    """Answer a request by `error`, and log it. `status` goes before that of the error; `allow` is that header."""
    answer = to_http_error(error)
    if status is not None:
        answer = replace(answer, status=status)
    log_refusal(error, answer, method=scope["method"], path=scope["path"])
    headers = {b"retry-after": answer.retry_after, b"allow": allow}
    own = [(name, value.encode()) for name, value in headers.items() if value is not None]
    await send_json(send, answer.body, status=answer.status, headers=own)


async def send_json(send: Send, body: bytes, *, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """A whole answer."""
    framing = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*framing, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
