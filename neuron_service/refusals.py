"""Refused requests: the line in the log, and the answer where no route makes it. Knows no web framework."""

import logging
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from neuron_lib.errors import InvalidRequest, NeuronError, PreflightFailed, cause_chain
from neuron_lib.logs import get_logger
from neuron_lib.registry.reply_readers import reply_fields
from neuron_lib.shown import clip
from neuron_lib.wire.http_errors import ErrorAnswer, UnknownPath
from neuron_service.asgi import Scope, Send
from neuron_service.dialects import render
from neuron_service.exchange import Exchange, exchange_of

__all__ = (
    "REFUSALS",
    "RefusalCounts",
    "allowed_methods",
    "answer_to_bug",
    "error_fields",
    "internal_error",
    "log_refusal",
    "refuse",
    "render",
    "send_error",
    "send_json",
)

logger = get_logger(__name__)

_FIELD: Final = re.compile(r"[A-Za-z_]\w{0,49}(\[\d{1,9}\])?")
"""The first part of the path of a value: a field of the request. Later parts may be keys that a client wrote."""


class RefusalCounts:
    """How many requests were answered with each error, by status and code. Only grows. Belongs to the event loop.

    Codes are names of this project, so there are few of them, whatever clients send.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[int, str]] = Counter()

    def add(self, error: NeuronError, answer: ErrorAnswer) -> None:
        """Count a request that is answered with `error`."""
        self._counts[answer.status, error.code] += 1

    def show(self) -> dict[tuple[int, str], int]:
        """The counts now."""
        return dict(self._counts)


REFUSALS: Final = RefusalCounts()
"""The refusals of this process. One for all, as there is one log for all: every part of the service may refuse."""


def error_fields(error: NeuronError) -> dict[str, Any]:
    """The fields of an error for a log record. Their names begin with `error_`, so that no field hides an attribute.

    If the error may quote a request, only numbers, the id of the model and the name of the wrong field are kept.
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
    """The error that is sent to a client when there is a bug. It contains the cause, because the log of the
    gateway shows the answer, and many people look there first.
    """
    error = NeuronError("internal error")
    error.__cause__ = bug
    return error


def answer_to_bug(bug: Exception, scope: Scope) -> ErrorAnswer:
    """The answer to a request that met a bug, in the shape of its path. Also counts it. The caller logs the bug."""
    error = internal_error(bug)
    answer = render(error, scope["path"])
    REFUSALS.add(error, answer)
    return answer


def log_refusal(error: NeuronError, answer: ErrorAnswer, exchange: Exchange, **fields: str) -> None:
    """Log one line of bounded length: what was refused and why. The line never has the text of a chat. Also count it.

    The line is the only one of its request: of an exchange that was refused once nothing more is logged or counted.

    `fields` are further fields of the line, which the answer does not have. The level is WARNING. For an unknown path
    it is INFO, because every scanner asks for such paths and no operator has to act.
    """
    if exchange.refusal is not None:
        return
    exchange.refusal = answer.code or answer.type
    REFUSALS.add(error, answer)
    logger.log(
        logging.INFO if isinstance(error, UnknownPath) else logging.WARNING,
        "request refused: %s",
        error.log_message,
        extra=exchange.labels
        | exchange.target
        | {"status": answer.status, "type": answer.type, "code": answer.code}
        | ({} if exchange.ended is None else reply_fields(exchange.ended))
        | {name: clip(value) for name, value in fields.items()}
        | {"duration_ms": exchange.took_ms()}
        | error_fields(error),
    )
    if error.quotes_request:
        logger.debug("the refusal in full: %s", cause_chain(error), extra=exchange.labels)


def allowed_methods(by_litestar: str) -> str:
    """The methods of a path for the header `allow`.

    The list that Litestar makes contains OPTIONS, which no path answers, and lacks HEAD.
    """
    methods = set(by_litestar.split(", ")) - {"OPTIONS", ""}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def refuse(error: NeuronError, scope: Scope, send: Send) -> None:
    """Answer a request with `error` in the shape of its path, and log the refusal."""
    answer = render(error, scope["path"])
    log_refusal(error, answer, exchange_of(scope))
    await send_error(send, answer)


async def send_error(send: Send, answer: ErrorAnswer) -> None:
    """Send `answer` as the whole answer to a request."""
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    await send_json(send, answer.body, status=answer.status, headers=headers)


async def send_json(send: Send, body: bytes, *, status: int, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send `body`, which is JSON, as the whole answer to a request. `headers` are sent besides type and length."""
    framing = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*framing, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
