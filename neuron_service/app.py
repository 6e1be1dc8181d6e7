"""The Litestar application: routes and the handlers of exceptions, without Litestar's own documentation and log."""

from collections.abc import Iterable, Iterator
from functools import partial

from litestar import Litestar
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler

from neuron_service import dialects
from neuron_service.access.hosts import AccessRules
from neuron_service.errors import EXCEPTION_HANDLERS
from neuron_service.host import Host
from neuron_service.http_rules import HttpRules
from neuron_service.openapi import Operation, operations_of
from neuron_service.probes import PROBES, Probes
from neuron_service.request_log import RequestLog
from neuron_service.routes.description import description_route
from neuron_service.routes.events import follow_events
from neuron_service.routes.host import discovery
from neuron_service.routes.images import generate_images
from neuron_service.routes.metrics import show_metrics
from neuron_service.routes.models import (
    about_model,
    estimate_model,
    follow_loading,
    get_openai_model,
    list_loading,
    list_models,
    list_openai_models,
    load_model,
    unload_model,
)
from neuron_service.routes.page import show_asset, show_page, show_state
from neuron_service.routes.replies import reply_route

__all__ = ("create_app", "create_routes", "operations")

_MAX_BODY_BYTES = 2 << 20  # also the limit of the gateway; a hostile body of this size blocks the event loop for 20 ms


def create_app(host: Host, *, access: AccessRules | None = None, cors_origins: Iterable[str] = ()) -> RequestLog:
    """The whole application of `host`. It has no lifespan, because `server` owns the order of start and stop.

    Without `access` requests may name any host and any origin. A server around the application then has to check them.
    Web pages of `cors_origins` may read the answers.
    """
    routes = Probes(host, create_routes(host))
    rules = HttpRules(routes, access=access, entrance=host.entrance, cors_origins=cors_origins)
    return RequestLog(rules, on_answer=host.tallies.take_answer)


def create_routes(host: Host) -> Litestar:
    """Everything except the probes."""
    handlers = _handlers()
    return Litestar(
        route_handlers=[*handlers, description_route(partial(_operations_of, handlers))],
        dependencies={"host": Provide(lambda: host, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=_MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
    )


def operations() -> Iterator[Operation]:
    """Everything that is answered, probes included, but for the description itself."""
    return _operations_of(_handlers())


def _handlers() -> list[HTTPRouteHandler]:
    return [
        discovery,
        list_models,
        list_openai_models,
        get_openai_model,
        list_loading,
        follow_loading,
        estimate_model,
        load_model,
        unload_model,
        about_model,
        generate_images,
        show_metrics,
        follow_events,
        show_page,
        show_state,
        show_asset,
        *map(reply_route, dialects.DIALECTS),
    ]


def _operations_of(handlers: Iterable[HTTPRouteHandler]) -> Iterator[Operation]:
    for path, probe in PROBES.items():
        answers = dict.fromkeys(probe.statuses, probe.body)
        yield Operation(method="get", path=path, summary=probe.summary, answers=answers)
    for handler in handlers:
        yield from operations_of(handler.opt)
