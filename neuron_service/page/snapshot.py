"""Takes from a host what the page shows. On the event loop, from memory."""

import time

from neuron_service.host import Host
from neuron_service.page.view import PageFacts

__all__ = ("take_facts",)


def take_facts(host: Host, *, scopes: frozenset[str]) -> PageFacts:
    """What the page shows now to a reader who may do what `scopes` say."""
    return PageFacts(
        hostname=host.hostname,
        status=host.status_line(),
        not_ready=host.why_not_ready(),
        version="" if host.version is None else host.version.package_version,
        health=host.health(),
        models=host.registry.list_models(),
        on_demand=host.registry.on_demand(),
        configured=host.configured,
        devices=host.seen_devices(),
        harnesses=host.harnesses,
        events=host.registry.recent_events(),
        scopes=scopes,
        now_s=time.time(),
    )
