"""What the routes need to know of this host, gathered in one place. Holds references; owns only the discovery."""

import time
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
from litestar.di import NamedDependency

from neuron_lib import ActivationTracker, Registry
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.errors import NoHarness
from neuron_lib.types import Discovery, Health
from neuron_service.version import Version

__all__ = ("HostNode", "Node")


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One per process. The hardware is looked up in the background, so `discovery` may have to be awaited."""

    harnesses: tuple[str, ...]
    registry: Registry
    tracker: ActivationTracker
    monitor: DeviceMonitor
    version: Version
    decode_turn: anyio.Lock = field(default_factory=anyio.Lock)
    """Held to decode a large body, which may keep the loop for a tenth of a second."""
    _started_s: float = field(default_factory=time.monotonic)
    _discovery: Discovery | None = None
    _discovered: anyio.Event = field(default_factory=anyio.Event)

    def set_discovery(self, discovery: Discovery) -> None:
        """Publish what was found; once."""
        self._discovery = discovery
        self._discovered.set()

    def require_harness(self) -> None:
        """Raises `NoHarness` on a host that has none and will get none."""
        if not self.harnesses:
            raise NoHarness

    async def discovery(self) -> Discovery:
        """What this host is; waits for the first look at the hardware, which has a time limit of its own."""
        await self._discovered.wait()
        assert self._discovery is not None  # set before the event
        return self._discovery

    def health(self) -> Health:
        """How this host is; memory only."""
        return Health(
            uptime_secs=int(time.monotonic() - self._started_s),
            devices=self.monitor.readings(),
            activation=self.tracker.snapshot(),
            models=self.registry.loads(),
            loading=self.registry.loading(),
            unloading=self.registry.unloading(),
            lost=self.registry.lost(),
        )


HostNode: TypeAlias = NamedDependency[Node]
"""The node as a route's parameter `node`; `app` provides it."""
