"""`/events`: what happens on this host, as it happens."""

from typing import Any

from litestar import Request, get
from litestar.types import ASGIApp

from neuron_lib.types import HostEvent
from neuron_service.host_dependency import HostDependency
from neuron_service.host_events import HostEventStream, place_asked_for
from neuron_service.openapi import Operation, described_by

__all__ = ("follow_events",)

_EVENTS = Operation(
    method="get",
    path="/events",
    summary="What happens on this host, as it happens: states, progress, restarts, rejections, ended replies",
    query={"after": "The id of the last event that is known, or `start` for all events that are kept"},
    answers={200: None},
    event=HostEvent,
)


@get(_EVENTS.path, opt=described_by(_EVENTS))
async def follow_events(host: HostDependency, request: Request[Any, Any, Any]) -> ASGIApp:
    """Server-sent events: those from now on, or those after the one that the client names."""
    after = place_asked_for(last_event_id=request.headers.get("last-event-id"), after=request.query_params.get("after"))
    return HostEventStream(host.registry.events(after), wait_refused=host.entrance.wait_refused)
