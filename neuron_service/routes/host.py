"""What the host is: `/discovery`. `probes` has the endpoints that are answered before the routes are imported."""

from typing import Final

from litestar import get

from neuron_lib.types import Discovery
from neuron_service.host_dependency import HostDependency
from neuron_service.openapi import Operation, described_by

__all__ = ("discovery",)

_DISCOVERY_LIMIT_S: Final = 3.0
"""The gateway waits for 5 s. A vendor's tool that hangs is ended after 5 s too, so the answer must not wait for it."""


_DISCOVERY = Operation(
    method="get", path="/discovery", summary="What this host is: GPUs, driver, harnesses", answers={200: Discovery}
)


@get(_DISCOVERY.path, opt=described_by(_DISCOVERY))
async def discovery(host: HostDependency) -> Discovery:
    """The hardware and the harnesses. If `max_prompt_tokens` is absent, the hardware has not been seen yet."""
    return await host.discovery_within(_DISCOVERY_LIMIT_S)
