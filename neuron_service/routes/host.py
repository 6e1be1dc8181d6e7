"""What the host is and how it feels: `/version`, `/discovery`, `/health`. Memory only."""

from litestar import get

from neuron_lib.types import Discovery, Health
from neuron_service.node import HostNode
from neuron_service.version import Version

__all__ = ("discovery", "health", "version")


@get("/version")
async def version(node: HostNode) -> Version:
    """Wire contract §1.1."""
    return node.version


@get("/discovery")
async def discovery(node: HostNode) -> Discovery:
    """Wire contract §1.2."""
    return await node.discovery()


@get("/health")
async def health(node: HostNode) -> Health:
    """Wire contract §1.3: always 200, always at once."""
    return node.health()
