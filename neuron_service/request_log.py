"""The id of a request on its answer, and the one line of the log at the request's end."""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from neuron_lib.logs import get_logger
from neuron_lib.registry.reply_readers import ending, reply_fields
from neuron_service.asgi import ASGIApp, Receive, Scope, Send
from neuron_service.dialects import id_headers
from neuron_service.exchange import Exchange, exchange_of

__all__ = ("RequestLog", "Watch", "end_line")

logger = get_logger(__name__)

_NS: Final = 1_000_000_000

Watch: TypeAlias = Callable[[Exchange, int, int], None]
"""Is told of an exchange that has ended, with its begin and its end in nanoseconds of Unix time. Must not wait."""


def end_line(exchange: Exchange, *, took_s: float) -> tuple[int, str, dict[str, object]] | None:
    """The level, the message and the fields of the line about an exchange that has ended after `took_s` seconds.

    None for an exchange that was refused: the line of the refusal is its line. The line has no text of a client or of a
    model, except the path and the id that the client gave to its request.
    """
    if exchange.refusal is not None:
        return None
    status = {} if exchange.status is None else {"status": exchange.status}
    took = {"duration_ms": round(took_s * 1000)}
    fields = exchange.labels | exchange.target | status
    if exchange.ended is not None:
        return logging.INFO, ending(exchange.ended), fields | reply_fields(exchange.ended) | took
    message = "request answered" if status else "request ended without an answer"
    level = logging.DEBUG if exchange.is_question else logging.INFO
    return level, message, fields | took


class RequestLog:
    """An ASGI application around another one: every answer has `x-request-id`, and every request has one line.

    `watch`, if it is set, is told of each exchange that ends from then on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        on_answer: Callable[[str, str, int | None, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`on_answer` is called at the end of each request with its method, its path, the status of the answer, None
        if there was none, and the seconds that it took. `clock` gives seconds, `unix_ns` nanoseconds of Unix time.
        """
        self.watch: Watch | None = None
        self._app = app
        self._on_answer = on_answer
        self._clock = clock
        self._unix_ns = unix_ns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        began_s, began_ns = self._clock(), self._unix_ns()

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message = message | {"headers": [*message["headers"], *id_headers(exchange.request_id, exchange.path)]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            took_s = self._clock() - began_s
            if self._on_answer is not None:
                self._on_answer(exchange.method, exchange.path, exchange.status, took_s)
            line = end_line(exchange, took_s=took_s)
            if line is not None:
                level, text, fields = line
                logger.log(level, text, extra=fields)
            if self.watch is not None:
                self._tell(self.watch, exchange, began_ns, began_ns + round(took_s * _NS))

    @staticmethod
    def _tell(watch: Watch, exchange: Exchange, began_ns: int, ended_ns: int) -> None:
        try:
            watch(exchange, began_ns, ended_ns)
        except Exception:  # a failure of whoever watches is no failure of the request
            logger.exception("bug in what watches requests", extra=exchange.labels)
