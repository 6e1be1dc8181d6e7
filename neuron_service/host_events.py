"""What happens on this host as server-sent events, as long as the client stays."""

from typing import Final

import anyio
import msgspec

from neuron_lib.errors import InvalidRequest
from neuron_lib.registry.event_log import START, HostEvents, is_event_id
from neuron_lib.types import HostEvent
from neuron_lib.wire.sse import server_sent_event
from neuron_service.asgi import Receive, Scope, Send
from neuron_service.feeds import SHORTEST_INTERVAL_S, WaitRefused, feed, never_refused
from neuron_service.streaming import EventStream

__all__ = ("HostEventStream", "place_asked_for")

_RETRY: Final = b"retry: 2000\n"
"""How many milliseconds a browser waits before it comes back."""


def place_asked_for(*, last_event_id: str | None, after: str | None) -> str | None:
    """The id after which a client wants to go on; None if it names none. Pure.

    `last_event_id` is the header `Last-Event-ID`, and `after` the parameter of the query. Both are None if absent. The
    header counts more: a browser that comes back sends it with the address of its first request. Raises
    `InvalidRequest` for a text that is no id.
    """
    for name, value in (("Last-Event-ID", last_event_id), ("after", after)):
        if not value:  # a browser that has no id yet may send an empty header
            continue
        if value == START or is_event_id(value):
            return value
        problem = f"{name}: give the `id` of an event of this stream, or `{START}` for all events that are kept"
        raise InvalidRequest(problem, param=name, summary=problem)
    return None


class HostEventStream:
    """An ASGI application that sends what `events` reads.

    Events that come within a quarter of a second are sent together, and progress of one load is merged meanwhile. The
    stream ends when the client leaves, when `wait_refused` returns, or when the registry of a host that
    stops has been left.
    """

    def __init__(self, events: HostEvents, *, wait_refused: WaitRefused = never_refused) -> None:
        self._events = events
        self._wait_refused = wait_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await feed(scope, receive, send, self._follow, subject="events", wait_refused=self._wait_refused)

    async def _follow(self, stream: EventStream) -> None:
        # Without data this is no event, but a client that loses its connection now knows where to go on.
        place = self._events.last_id
        await stream.send((b"" if place is None else b"id: " + place.encode() + b"\n") + _RETRY + b"\n")
        while batch := await self._events.next_batch():
            await stream.send(b"".join(map(_encode, batch)))
            await anyio.sleep(SHORTEST_INTERVAL_S)


def _encode(event: HostEvent) -> bytes:
    return server_sent_event(msgspec.json.encode(event), id_=event.id)
