"""What long answers need: to notice that a client leaves, and to send server-sent events without long silence.

Knows no API.
"""

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

import anyio

from neuron_lib.errors import first_leaf
from neuron_lib.wire.sse import KEEP_ALIVE
from neuron_service.asgi import DirectWrite, Receive, Send

__all__ = ("SEND_LIMIT_S", "ClientStalled", "EventStream", "while_connected")

SEND_LIMIT_S: Final = 60.0
"""A client that has not read anything for this long is treated as gone."""

Result = TypeVar("Result")


class ClientStalled(Exception):
    """The client has not read anything for too long."""


class EventStream:
    """One answer of server-sent events. Lives as long as the answer. `send` and `watch` may run at the same time, and
    `write` may be called at any time after the first `send`.

    The silence is watched by one task beside the events. A time limit around each event would cost more processor time
    than the event.
    """

    def __init__(self, send: Send, *, silence_limit_s: float, write: DirectWrite | None = None) -> None:
        """After each `silence_limit_s` without an event `watch` sends a comment. `write` is the server's, if it has
        one.
        """
        self._send = send
        self._write = write
        self._silence_limit_s = silence_limit_s
        self._sending = anyio.Lock(fast_acquire=True)
        self._sent_at = math.inf

    async def open(self, own_headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send the status 200 and the headers. A later error can only be sent as an event."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),  # without the charset some clients decode Latin-1
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx then passes each event on at once
            *own_headers,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, chunk: bytes, *, more: bool = True) -> None:
        """Send a chunk of the body. Waits as long as the client does not read. `more=False` ends the answer."""
        async with self._sending:
            if self._sent_at == math.inf:
                self._sent_at = anyio.current_time()  # the silence is measured from the first chunk on
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
            self._sent_at = anyio.current_time()

    @property
    def can_write(self) -> bool:
        """Whether `write` may be called: whether the server can do that."""
        return self._write is not None

    def write(self, chunk: bytes) -> bool:
        """Send a chunk at once, without waiting. Returns whether the client has read enough for another one."""
        assert self._write is not None  # asked before
        self._sent_at = anyio.current_time()
        return self._write(chunk)

    async def watch(self) -> None:
        """Send a comment after each silence. Runs until it is cancelled.

        Raises `ClientStalled` when the client has not read anything for `SEND_LIMIT_S`.
        """
        while True:
            idle_s = anyio.current_time() - self._sent_at
            if self._sending.locked() and idle_s >= SEND_LIMIT_S:
                raise ClientStalled
            if idle_s >= self._silence_limit_s and not self._sending.locked():
                with anyio.move_on_after(SEND_LIMIT_S) as patience:
                    await self.send(KEEP_ALIVE)
                if patience.cancelled_caught:
                    raise ClientStalled
            else:
                wait_s = self._silence_limit_s - idle_s
                await anyio.sleep(wait_s if 0 < wait_s < self._silence_limit_s else self._silence_limit_s)


async def while_connected(
    receive: Receive,
    work: Callable[[], Awaitable[Result]],
    *,
    beside: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> Result | None:
    """The result of `work`, or None if the client left before `work` ended; `work` is then cancelled.

    `beside` runs at the same time as `work` and is cancelled with it. An exception of `beside` ends `work`, and an
    exception of either is raised as it is, without a group.

    Every long answer needs this, because no ASGI server cancels an application whose client has gone. The body of the
    request must have been read before: this function takes all further messages from `receive`.
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
