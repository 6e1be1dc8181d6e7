"""The loads of this host as server-sent events, as long as the client stays. The gateway does not ask for them."""

from contextlib import aclosing
from typing import Final

import anyio
import msgspec

from neuron_lib import LoadingModel, Registry
from neuron_lib.logs import get_logger
from neuron_lib.wire.sse import server_sent_event
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.exchange import exchange_of
from neuron_service.streaming import ClientStalled, EventStream, while_connected

__all__ = ("LoadingEvents",)

logger = get_logger(__name__)

_SHORTEST_INTERVAL_S: Final = 0.25
_SILENCE_LIMIT_S: Final = 15.0
"""A comment is sent after this long without an event. Without comments proxies close the connection."""


class LoadingEvents:
    """An ASGI application that sends an event with all loads: when the client comes, and after each change.

    Events are sent at most four times a second, and changes between them are merged. The stream ends when the client
    leaves or when the host drains. The last event of a host that drains says that nothing loads.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = EventStream(send, silence_limit_s=_SILENCE_LIMIT_S)
        try:
            await while_connected(receive, lambda: self._follow(stream), beside=stream.watch)
        except ClientStalled:
            labels = exchange_of(scope).labels
            logger.info("client stopped reading, it is told of loads no more", extra=labels)

    async def _follow(self, stream: EventStream) -> None:
        await stream.open()
        async with aclosing(self._registry.loading_changes()) as changes:
            async for loading in changes:
                await stream.send(_event(loading))
                await anyio.sleep(_SHORTEST_INTERVAL_S)
        await stream.send(b"", more=False)


def _event(loading: tuple[LoadingModel, ...]) -> bytes:
    return server_sent_event(msgspec.json.encode(loading), name="loading")
