"""The loads of this host as server-sent events, as long as the client stays. The gateway does not ask for them."""

from contextlib import aclosing

import anyio
import msgspec

from neuron_lib import LoadingModel, Registry
from neuron_lib.wire.sse import server_sent_event
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.feeds import SHORTEST_INTERVAL_S, WaitRefused, feed, never_refused
from neuron_service.streaming import EventStream

__all__ = ("LoadingEvents",)


class LoadingEvents:
    """An ASGI application that sends an event with all loads: when the client comes, and after each change.

    Events are sent at most four times a second, and changes between them are merged. The stream ends when the client
    leaves, when `wait_refused` returns, or when the host drains. The last event of a host that drains
    says that nothing loads.
    """

    def __init__(self, registry: Registry, *, wait_refused: WaitRefused = never_refused) -> None:
        self._registry = registry
        self._wait_refused = wait_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await feed(scope, receive, send, self._follow, subject="loads", wait_refused=self._wait_refused)

    async def _follow(self, stream: EventStream) -> None:
        async with aclosing(self._registry.loading_changes()) as changes:
            async for loading in changes:
                await stream.send(_event(loading))
                await anyio.sleep(SHORTEST_INTERVAL_S)


def _event(loading: tuple[LoadingModel, ...]) -> bytes:
    return server_sent_event(msgspec.json.encode(loading), name="loading")
