"""The Litestar application: routes, the error table, and nothing of Litestar's own opinions about either."""

from litestar import Litestar
from litestar.di import Provide

from neuron_service.access import AccessRules
from neuron_service.errors import EXCEPTION_HANDLERS
from neuron_service.host import Host
from neuron_service.http_rules import HttpRules
from neuron_service.probes import Probes
from neuron_service.routes.chat import chat_completions
from neuron_service.routes.host import discovery
from neuron_service.routes.models import (
    about_model,
    follow_loading,
    list_loading,
    list_models,
    list_openai_models,
    load_model,
    unload_model,
)

__all__ = ("create_app", "create_routes")

_MAX_BODY_BYTES = 2 << 20  # what the gateway lets through; a hostile body of that size takes 20 ms of the loop


def create_app(host: Host, *, access: AccessRules | None = None) -> HttpRules:
    """The whole application over `host`; it has no lifespan of its own, because `server` owns the order of life.

    Without `access` any host and any origin may ask: for a server around it that decides that itself.
    """
    return HttpRules(Probes(host, create_routes(host)), access=access)


def create_routes(host: Host) -> Litestar:
    """Everything but the probes."""
    return Litestar(
        route_handlers=[
            discovery,
            list_models,
            list_openai_models,
            list_loading,
            follow_loading,
            load_model,
            unload_model,
            about_model,
            chat_completions,
        ],
        dependencies={"host": Provide(lambda: host, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        request_max_body_size=_MAX_BODY_BYTES,
        openapi_config=None,
        logging_config=None,
    )
