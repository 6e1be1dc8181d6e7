"""What the log of an engine says of each request: a line when it begins and a line when it ends, at DEBUG.

The lines of the daemon about the same request have the same `request_id`. Writes nothing for a token.
"""

import logging
from typing import Final

from neuron_lib.engine.line import Request
from neuron_lib.engine.protocol import Broken
from neuron_lib.logs import FieldLogger, get_logger

__all__ = ("RequestLines",)

logger: FieldLogger = get_logger("neuron_lib.engine")


class RequestLines:
    """Knows the requests that run in one engine. Lives as long as its loop, and belongs to the engine's thread."""

    def __init__(self) -> None:
        self._running: Final[dict[int, tuple[str, int]]] = {}  # by number: the id, and the sequences left

    def began(self, request: Request, *, now_s: float) -> None:
        """The request has its seats."""
        self._running[request.number] = request.request_id, len(request.sequences)
        queue_ms = round((now_s - request.arrived_s) * 1000)
        fields = {"request": request.number, "seats": request.seats, "queue_ms": queue_ms}
        logger.debug("request begins", extra={"request_id": request.request_id, **fields})

    def ended_one(self, number: int) -> None:
        """One more sequence of the request is complete."""
        request_id, left = self._running.get(number, ("", 0))
        if left > 1:
            self._running[number] = request_id, left - 1
        else:
            self._end(number, "complete")

    def cancelled(self, number: int) -> None:
        """The engine has left the request."""
        self._end(number, "cancelled")

    def broke(self, broken: Broken) -> None:
        """The request cannot go on. The reason is not written if it may quote the request's grammar."""
        if broken.param is None:
            self._end(broken.request, broken.message, level=logging.WARNING)
        else:
            self._end(broken.request, f"broken off for its {broken.param}")

    def _end(self, number: int, how: str, *, level: int = logging.DEBUG) -> None:
        """Write the line of a request that ran."""
        request_id, left = self._running.pop(number, ("", 0))
        if left:
            logger.log(level, "request ends: %s", how, extra={"request_id": request_id, "request": number})
