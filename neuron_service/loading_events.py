"""The loads of this host as server-sent events, for as long as somebody watches. Ours, beyond the contract."""

import logging
from contextlib import aclosing
from typing import Final

import anyio
import msgspec

from neuron_lib import LoadingModel, Registry
from neuron_lib.wire.line_breaks import escape_line_breaks
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.client import while_connected
from neuron_service.outlet import ClientStalled, EventOutlet

__all__ = ("LoadingEvents",)

logger = logging.getLogger(__name__)

_SHORTEST_INTERVAL_S: Final = 0.25
_SILENCE_LIMIT_S: Final = 15.0
"""After that long without an event a comment is sent, or proxies take the connection for dead."""


class LoadingEvents:
    """All loads at once and after every change, at most four times a second; what changes faster is merged.

    Ends when the client leaves, or when the host drains: then nothing loads, as the last event says.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        outlet = EventOutlet(send, silence_limit_s=_SILENCE_LIMIT_S)
        try:
            await while_connected(receive, lambda: self._follow(outlet), beside=outlet.watch)
        except ClientStalled:
            logger.info("client stopped reading, it is told of loads no more")

    async def _follow(self, outlet: EventOutlet) -> None:
        await outlet.open()
        async with aclosing(self._registry.loading_changes()) as changes:
            async for loading in changes:
                await outlet.send(_event(loading))
                await anyio.sleep(_SHORTEST_INTERVAL_S)
        await outlet.send(b"", more=False)


def _event(loading: tuple[LoadingModel, ...]) -> bytes:
    # By hand, because Litestar separates the lines by CRLF (wire contract §2.8-1).
    return b"event: loading\ndata: " + escape_line_breaks(msgspec.json.encode(loading)) + b"\n\n"
