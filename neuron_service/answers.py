"""A reply as an HTTP answer, streamed or whole. Enters and leaves the reply. Knows no API.

The bytes of the answer are those of a `neuron_lib.wire.dialect`.
"""

from functools import partial
from typing import Final

import anyio

from neuron_lib import Finished, Generation, NeuronError
from neuron_lib.harness import ForwardingReply
from neuron_lib.logs import get_logger
from neuron_lib.types import EventBeforeEnd, Usage
from neuron_lib.wire.dialect import Collector, FollowsUsage, StreamEncoder
from neuron_service.asgi import DIRECT_WRITE, Receive, Scope, Send
from neuron_service.exchange import exchange_of
from neuron_service.refusals import error_fields, internal_error
from neuron_service.streaming import SEND_LIMIT_S, ClientStalled, EventStream, while_connected

__all__ = ("SILENCE_LIMIT_S", "StreamedAnswer", "WholeAnswer")

logger = get_logger(__name__)

SILENCE_LIMIT_S: Final = 1.0
"""A comment is sent after this long without an event. Some clients hang up after little more than one second of
silence (`docs/reference/wire-contract.md#streams`).
"""


class WholeAnswer:
    """An ASGI application that answers with the whole reply in one JSON body. Used once.

    Every error is raised, because the answer begins when the reply has ended.
    """

    def __init__(self, reply: Generation, collector: Collector) -> None:
        self._reply = reply
        self._collector = collector

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        body = await while_connected(receive, self._collect)
        if body is None:
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *_own_headers(self._reply),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        with anyio.move_on_after(SEND_LIMIT_S):
            await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _collect(self) -> bytes:
        async with self._reply as events:
            async for event in events:
                self._collector.add(event)
        return self._collector.body()


class StreamedAnswer:
    """An ASGI application that answers with the reply as a stream. Used once.

    An error before the answer begins is raised, so that its status can be sent. A later error is logged and becomes the
    last events of the stream.
    """

    def __init__(self, reply: Generation, encoder: StreamEncoder, *, silence_limit_s: float = SILENCE_LIMIT_S) -> None:
        self._reply = reply
        self._encoder = encoder
        self._silence_limit_s = silence_limit_s
        self._is_open = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write = scope.get("extensions", {}).get(DIRECT_WRITE, {}).get("write")
        stream = EventStream(send, silence_limit_s=self._silence_limit_s, write=write)
        try:
            await while_connected(receive, lambda: self._answer(stream, scope), beside=stream.watch)
        except ClientStalled:
            logger.info("client stopped reading, its reply was given up", extra=exchange_of(scope).labels)

    async def _answer(self, stream: EventStream, scope: Scope) -> None:
        encoder = self._encoder
        try:
            async with self._reply as events:
                await stream.open(_own_headers(events))
                self._is_open = True
                if isinstance(encoder, FollowsUsage):
                    encoder.follow(partial(_usage_of, events))
                await stream.send(encoder.opening())
                if stream.can_write and isinstance(events, ForwardingReply):
                    events.forward(partial(self._write, stream))
                async for event in events:  # those that are not forwarded
                    chunk = encoder.ending(event) if isinstance(event, Finished) else encoder.event(event)
                    if chunk:
                        await stream.send(chunk)
        except Exception as error:
            if not self._is_open:
                raise
            await stream.send(encoder.error(_log_lost_reply(error, scope), _usage_of(self._reply)))
        await stream.send(b"", more=False)

    def _write(self, stream: EventStream, event: EventBeforeEnd) -> bool:
        """Write an event at once. Returns whether the client has read enough for another one."""
        chunk = self._encoder.event(event)
        return stream.write(chunk) if chunk else True


def _usage_of(reply: Generation) -> Usage:
    """What the reply has cost so far. Harnesses of other programs may be older than the property `usage`."""
    return getattr(reply, "usage", None) or Usage(prompt_tokens=0, completion_tokens=0)


def _own_headers(reply: Generation) -> list[tuple[bytes, bytes]]:
    """`x-neuron-retried`, if the reply was begun again before the answer began. A later retry is in the log only."""
    return [(b"x-neuron-retried", b"1")] if reply.retried else []


def _log_lost_reply(error: Exception, scope: Scope) -> NeuronError:
    """Log why a reply ends half-way. Returns the error that is sent to the client."""
    labels = exchange_of(scope).labels
    if isinstance(error, NeuronError):
        logger.warning("stream ended by an error: %s", error.log_message, extra=labels | error_fields(error))
        return error
    logger.error("bug in a stream", exc_info=error, extra=labels)
    return internal_error(error)
