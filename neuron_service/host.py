"""What the routes need to know of this host, gathered in one place. Holds references; owns only the discovery."""

import logging
import time
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib import ActivationTracker, Registry
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.probe import undiscovered
from neuron_lib.errors import NoHarness, ShuttingDown
from neuron_lib.types import Discovery, Health
from neuron_service.status import NotReady, draining_line, status_line, why_not_ready
from neuron_service.version import Version

__all__ = ("Host",)

logger = logging.getLogger(__name__)

_LARGE_BODY_BYTES: Final = 1 << 17
_TICK_LIMIT_S: Final = 10.0
"""Supervision moves each second; a loop that a large request kept for a moment is no reason to call it stuck."""


@dataclass(slots=True, kw_only=True, eq=False)
class Host:
    """One per process. The hardware is looked at in the background, so `discovery` may have to be awaited."""

    harnesses: tuple[str, ...]
    registry: Registry
    tracker: ActivationTracker
    monitor: DeviceMonitor
    version: Version | None = None
    """None as long as git is asked for the commit."""
    decode_turn: anyio.Lock = field(default_factory=anyio.Lock)
    """Held to decode a large body, which may keep the loop for 20 ms."""
    _started_s: float = field(default_factory=time.monotonic)
    _discovery: Discovery | None = None
    _looked: anyio.Event = field(default_factory=anyio.Event)
    """There is a `_discovery`, or there will be none because the host stops."""
    _version_known: anyio.Event = field(default_factory=anyio.Event)
    _is_draining: bool = False

    def __post_init__(self) -> None:
        self.registry.follow(self.tracker)

    def set_version(self, version: Version) -> None:
        """Publish what is running; once."""
        self.version = version
        self._version_known.set()

    async def current_version(self) -> Version:
        """What is running; waits until that is known. Raises `ShuttingDown` if the host stops before it knows."""
        if self.version is None:
            await self._version_known.wait()
        if self.version is None:
            raise ShuttingDown
        return self.version

    def set_discovery(self, discovery: Discovery) -> None:
        """Publish what is known of the hardware; the last word counts."""
        self._discovery = discovery
        self._looked.set()

    def gpu_memory_mb(self) -> tuple[int, ...]:
        """The memory of each GPU that has been seen so far."""
        return () if self._discovery is None else tuple(gpu.vram_total_mb for gpu in self._discovery.devices)

    async def turn_to_decode(self, body: bytes) -> None:
        """Wait until `body` may be decoded: at once, but large ones one after another, with other requests in between.

        What the caller does before it waits again comes before the next large body's turn.
        """
        if len(body) > _LARGE_BODY_BYTES:
            async with self.decode_turn:
                await checkpoint()

    def require_harness(self) -> None:
        """Raises `NoHarness` on a host that has none and will get none."""
        if not self.harnesses:
            raise NoHarness

    async def discovery(self) -> Discovery:
        """What this host is; waits until its hardware has been seen, or until nobody waits for that any more.

        Raises `ShuttingDown` if the host stops before it knows.
        """
        await self._looked.wait()
        if self._discovery is None:
            raise ShuttingDown
        return self._discovery

    async def discovery_within(self, limit_s: float) -> Discovery:
        """The same, but after `limit_s` what is known without that look. Raises `ShuttingDown` as well."""
        with anyio.move_on_after(limit_s):
            return await self.discovery()
        return undiscovered(self.harnesses)

    async def hardware_within(self, patience_s: float) -> Discovery:
        """The same, but after `patience_s` nobody waits any more: what is known without a look is published until one
        succeeds. Raises `ShuttingDown` as well.
        """
        with anyio.move_on_after(patience_s):
            return await self.discovery()
        if self._discovery is None:
            logger.warning("no GPU has been seen after %g s, models load without", patience_s)
            self.set_discovery(undiscovered(self.harnesses))
        return await self.discovery()

    def start_draining(self) -> None:
        """First step of a shutdown: not ready any more, and nothing more is admitted; what runs goes on."""
        self._is_draining = True
        self._looked.set()
        self._version_known.set()
        self.registry.close_admission()

    def is_moving(self) -> bool:
        """Whether the supervision of the models gets on; asked from the event loop, it says the same of that."""
        return self.registry.tick_age_s() < _TICK_LIMIT_S

    def why_not_ready(self) -> NotReady | None:
        """None while requests are welcome."""
        models = self.registry.list_models()
        return why_not_ready(self.tracker.snapshot(), models=models, is_draining=self._is_draining)

    def status_line(self) -> str:
        """What the host does now, in one line for people."""
        if self._is_draining:
            return draining_line(self.registry.loads(), unloading=self.registry.unloading())
        return status_line(
            self.tracker.snapshot(),
            loading=self.registry.loading(),
            models=self.registry.list_models(),
            unloading=self.registry.unloading(),
            lost=self.registry.lost(),
        )

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
