"""What the host is: `/discovery`. What is asked before the routes are loaded is in `probes`."""

from typing import Final

from litestar import get

from neuron_lib.types import Discovery
from neuron_service.host_dependency import HostDependency

__all__ = ("discovery",)

_DISCOVERY_LIMIT_S: Final = 3.0
"""A gateway gives up after 5 s, and a vendor's tool that hangs is given as long as that."""


@get("/discovery")
async def discovery(host: HostDependency) -> Discovery:
    """Wire contract §1.2."""
    return await host.discovery_within(_DISCOVERY_LIMIT_S)
