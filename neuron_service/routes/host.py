"""What the host is and how it feels: `/version`, `/discovery`, `/health`, and the probes. Memory only."""

from typing import Final

from litestar import HttpMethod, Response, get, route

from neuron_lib.types import Discovery, Health
from neuron_service.node import HostNode
from neuron_service.status import Liveness, Readiness
from neuron_service.version import Version

__all__ = ("discovery", "health", "liveness", "readiness", "version")

_PROBE: Final = (HttpMethod.GET, HttpMethod.HEAD)
_DISCOVERY_LIMIT_S: Final = 3.0
"""A gateway gives up after 5 s, and a vendor's tool that hangs is given as long as that."""


@get("/version")
async def version(node: HostNode) -> Version:
    """Wire contract §1.1."""
    return node.version


@get("/discovery")
async def discovery(node: HostNode) -> Discovery:
    """Wire contract §1.2."""
    return await node.discovery_within(_DISCOVERY_LIMIT_S)


@get("/health")
async def health(node: HostNode) -> Health:
    """Wire contract §1.3: always 200, always at once."""
    return node.health()


@route("/healthz", http_method=_PROBE, status_code=200)
async def liveness(node: HostNode) -> Response[Liveness]:
    """Whether this process gets on; one that does not should be restarted."""
    is_moving = node.is_moving()
    return Response(Liveness(status="ok" if is_moving else "stuck"), status_code=200 if is_moving else 503)


@route("/readyz", http_method=_PROBE, status_code=200)
async def readiness(node: HostNode) -> Response[Readiness]:
    """Whether requests should be sent here now."""
    reason = node.why_not_ready()
    body = Readiness(status="not_ready" if reason else "ready", reason=reason, detail=node.status_line())
    return Response(body, status_code=503 if reason else 200)
