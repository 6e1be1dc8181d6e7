"""The way of server-sent events to one client: opens the answer, fills its silence, gives up on who does not read.

What the events say is the business of `sse` and `loading_events`.
"""

import math
from collections.abc import Iterable

import anyio

from neuron_lib.wire.openai_chat_reply import KEEP_ALIVE
from neuron_service.asgi import Send
from neuron_service.client import SEND_LIMIT_S

__all__ = ("ClientStalled", "EventOutlet")


class ClientStalled(Exception):
    """The client has not taken anything for too long."""


class EventOutlet:
    """One chunk at a time once the answer is open, and something at least each `silence_limit_s`.

    The clock is watched beside the chunks: a time limit around each would cost more than the chunk itself.
    """

    def __init__(self, send: Send, *, silence_limit_s: float) -> None:
        self._send = send
        self._silence_limit_s = silence_limit_s
        self._turn = anyio.Lock(fast_acquire=True)
        self._sent_at = math.inf

    async def open(self, own_headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Begin the answer; after this nothing but events can be said."""
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),  # without it, some clients decode as Latin-1
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
            *own_headers,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, chunk: bytes, *, more: bool = True) -> None:
        """Send a chunk of the body; waits as long as the client does not read."""
        async with self._turn:
            if self._sent_at == math.inf:
                self._sent_at = anyio.current_time()  # the clock runs from the first chunk on
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
            self._sent_at = anyio.current_time()

    async def watch(self) -> None:
        """Send a comment whenever there was nothing else for too long. Raises `ClientStalled` for a client that has
        not taken anything for `SEND_LIMIT_S`.
        """
        while True:
            idle_s = anyio.current_time() - self._sent_at
            if self._turn.locked() and idle_s >= SEND_LIMIT_S:
                raise ClientStalled
            if idle_s >= self._silence_limit_s and not self._turn.locked():
                with anyio.move_on_after(SEND_LIMIT_S) as patience:
                    await self.send(KEEP_ALIVE)
                if patience.cancelled_caught:
                    raise ClientStalled
            else:
                wait_s = self._silence_limit_s - idle_s
                await anyio.sleep(wait_s if 0 < wait_s < self._silence_limit_s else self._silence_limit_s)
