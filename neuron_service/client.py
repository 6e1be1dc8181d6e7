"""The other end of a connection: how long it is there, how long it may take to read, how it may send."""

import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio
from litestar.types import Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from neuron_lib.errors import first_leaf

__all__ = ("MAX_HEAD_BYTES", "SEND_LIMIT_S", "BoundedConnection", "while_connected")

SEND_LIMIT_S: Final = 60.0
"""A client that has taken nothing for this long is treated as gone."""

MAX_HEAD_BYTES: Final = 64 << 10
"""Longest request line and headers together, give or take one read of the socket."""

Result = TypeVar("Result")


async def while_connected(
    receive: Receive,
    work: Callable[[], Awaitable[Result]],
    *,
    beside: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> Result | None:
    """Do `work`, but only as long as the client stays; None if it left first. `beside` runs for just as long, and what
    it raises ends the work.

    Needed around every long answer: no ASGI server cancels a handler whose client has gone. The request's body must
    have been read, because this eats what `receive` still has to say.
    """
    result: list[Result] = []
    try:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            if beside is not None:
                tasks.start_soon(beside)
            result.append(await work())
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        leaf = first_leaf(group)
        raise leaf from leaf.__cause__
    return result[0] if result else None


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol, without endless heads and with one request at a time.

    uvicorn stops reading while a second request waits behind the first, and then never learns that the client has
    gone: the first reply would be generated to its end for nobody. So what is sent ahead of an answer is ignored, and
    the connection closed behind that answer, as HTTP allows; clients send the rest again.
    """

    _head_bytes: float = 0
    _is_ahead = False

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The request line and the headers exceed {MAX_HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        self._head_bytes = -math.inf  # from here to the end of the request nothing counts
        unanswered: RequestResponseCycle | None = self.cycle
        if unanswered is None or unanswered.response_complete:
            super().on_headers_complete()
        else:
            self._is_ahead = True
            unanswered.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._is_ahead:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        if not self._is_ahead:
            super().on_message_complete()
