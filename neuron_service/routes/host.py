"""What the host is and how it feels: `/version`, `/discovery`, `/health`. Memory only."""

from litestar import get

from neuron_lib.types import Discovery, Health
from neuron_service.node import Node
from neuron_service.version import Version

__all__ = ("discovery", "health", "version")


@get("/version")
async def version(node: Node) -> Version:
    """Wire contract §1.1."""
    return node.version


@get("/discovery")
async def discovery(node: Node) -> Discovery:
    """Wire contract §1.2."""
    return await node.discovery()


@get("/health")
async def health(node: Node) -> Health:
    """Wire contract §1.3: always 200, always at once."""
    return node.health()
