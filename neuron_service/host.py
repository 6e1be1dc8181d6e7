"""The facts about this host that routes and probes need, in one place. Holds references; owns only the discovery."""

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.lowlevel import checkpoint
from msgspec import UNSET, UnsetType

from neuron_lib import ActivationTracker, Registry
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.host_monitor import HostMonitor
from neuron_lib.discovery.probe import undiscovered
from neuron_lib.errors import InvalidRequest, LoadFailed, NoHarness, ShuttingDown
from neuron_lib.types import Device, Discovery, Health, ModelInfo, ModelSpec, Reload, public_id
from neuron_service.access.entrance import Entrance, EntranceRules
from neuron_service.capacity import gpu_memory_by_index
from neuron_service.status import NotReady, draining_line, status_line, why_not_ready
from neuron_service.tallies import Tallies
from neuron_service.version import Version

__all__ = ("Host",)

logger = logging.getLogger(__name__)

_LARGE_BODY_BYTES: Final = 1 << 17
_TICK_LIMIT_S: Final = 10.0
"""Supervision ticks each second. The limit is longer, because an event loop that a large request keeps busy for a
moment must not count as stuck.
"""


@dataclass(slots=True, kw_only=True, eq=False)
class Host:
    """This host. One per process, on the event loop. The hardware is looked at in the background."""

    harnesses: tuple[str, ...]
    registry: Registry
    tracker: ActivationTracker
    monitor: DeviceMonitor
    host_monitor: HostMonitor = field(default_factory=HostMonitor)
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    """Further names for models, each with the id that it stands for."""
    configured: tuple[str, ...] = ()
    """The public ids of the models of the configuration, for people who choose one to load."""
    has_page: bool = True
    """Whether there is a page for people at `/`."""
    reloads: Callable[[], Reload | UnsetType] = lambda: UNSET
    """The outcome of the last reload of the configuration."""
    entrance: Entrance = field(default_factory=lambda: Entrance(EntranceRules()))
    """Whom the service lets in. By default everybody: then the program around the service decides that."""
    version: Version | None = None
    """None while git is asked for the commit."""
    tallies: Tallies = field(default_factory=Tallies)
    """What was counted for `/metrics`. `Registry(on_reply=…, on_load=…)` must be told of the two methods that count."""
    decode_turn: anyio.Lock = field(default_factory=anyio.Lock)
    """Held while a large body is decoded, which may block the loop for 20 ms."""
    _started_s: float = field(default_factory=time.monotonic)
    _discovery: Discovery | None = None
    _looked: anyio.Event = field(default_factory=anyio.Event)
    """Set when `_discovery` is known, and when the host stops, because `_discovery` may then never be known."""
    _version_known: anyio.Event = field(default_factory=anyio.Event)
    _is_draining: bool = False

    def __post_init__(self) -> None:
        self.registry.follow(self.tracker)

    def set_version(self, version: Version) -> None:
        """Publish the version that is running. Called once."""
        self.version = version
        self._version_known.set()

    async def current_version(self) -> Version:
        """The version that is running. Waits until it is known. Raises `ShuttingDown` if the host stops before that."""
        if self.version is None:
            await self._version_known.wait()
        if self.version is None:
            raise ShuttingDown
        return self.version

    def set_discovery(self, discovery: Discovery) -> None:
        """Publish what is known of the hardware. The last call counts."""
        self._discovery = discovery
        self._looked.set()

    @property
    def hostname(self) -> str:
        """The name of this machine."""
        return platform.node() if self._discovery is None else self._discovery.hostname

    def gpu_memory_mb(self) -> tuple[int, ...]:
        """The memory in MiB of each GPU that has been seen so far; see `gpu_memory_by_index`."""
        return gpu_memory_by_index(self.seen_devices())

    def seen_devices(self) -> tuple[Device, ...]:
        """The GPUs that have been seen so far."""
        return () if self._discovery is None else self._discovery.devices

    async def turn_to_decode(self, body: bytes) -> None:
        """Wait until `body` may be decoded. Large bodies are decoded one after another, with other requests in between.

        A small body does not wait. The caller must decode before it awaits anything else: only then does the next large
        body wait for it.
        """
        if len(body) > _LARGE_BODY_BYTES:
            async with self.decode_turn:
                await checkpoint()

    def meant_id(self, named: str) -> str:
        """The id of the model that a request names by its id, by an alias, or by nothing: "" means the only model that
        is resident.

        Raises `NoHarness` on a host that has no harness and will get none, and `InvalidRequest` for an empty name that
        means no model.
        """
        self.require_harness()
        return self.model_aliases.get(named, named) if named else self._only_model()

    def _only_model(self) -> str:
        models = self.registry.list_models()
        if len(models) != 1:
            problem = f"this field is required where not exactly one model is resident; {len(models)} are"
            raise InvalidRequest(f"model: {problem}", param="model", summary=f"model: {problem}")
        return models[0].id

    def info(self, model_id: str) -> ModelInfo:
        """One resident model; see `Registry.info`. Takes an alias too."""
        return self.registry.info(self.model_aliases.get(model_id, model_id))

    def absent_on_demand(self, model_id: str) -> str | None:
        """The id of a model that is not resident, and that a request would load. None for any other. Takes an alias."""
        asked = public_id(self.model_aliases.get(model_id, model_id))
        return asked if asked in self.registry.on_demand() else None

    def require_harness(self) -> None:
        """Raises `NoHarness` on a host that has none and will get none."""
        if not self.harnesses:
            raise NoHarness

    def require_choice_of_harness(self, spec: ModelSpec) -> None:
        """Raises `InvalidRequest` for a load that names no harness on a host that cannot choose one."""
        names = self.registry.harness_names or self.harnesses
        if spec.harness is None and not self.registry.can_choose_harness:
            text = f"harness: this host has {', '.join(names)}, so a load must name one of them"
            raise InvalidRequest(text, param="harness", summary=text)

    async def discovery(self) -> Discovery:
        """What this host is. Waits until its hardware has been seen, or until loads no longer wait for it.

        Raises `ShuttingDown` if the host stops before that.
        """
        await self._looked.wait()
        if self._discovery is None:
            raise ShuttingDown
        return self._discovery

    async def require_hardware(self) -> None:
        """Wait until the hardware has been seen. Raises `LoadFailed` if no model can be loaded on it."""
        reason = (await self.discovery()).cuda_unavailable_reason
        if reason is not None:
            raise LoadFailed(reason)

    async def discovery_within(self, limit_s: float) -> Discovery:
        """Like `discovery`, but returns the facts without the hardware after `limit_s`. Also raises `ShuttingDown`."""
        with anyio.move_on_after(limit_s):
            return await self.discovery()
        return undiscovered(self.harnesses)

    async def hardware_within(self, patience_s: float) -> Discovery:
        """Like `discovery`, but after `patience_s` it publishes the facts without the hardware, and returns them.

        A look that succeeds later replaces these facts. Raises `ShuttingDown` as well.
        """
        with anyio.move_on_after(patience_s):
            return await self.discovery()
        if self._discovery is None:
            logger.warning("no GPU has been seen after %g s, models load without", patience_s)
            self.set_discovery(undiscovered(self.harnesses))
        return await self.discovery()

    def announce_stop(self) -> None:
        """Begin a shutdown: the host is not ready, and its models are `recovering`. Requests are still admitted."""
        self._is_draining = True
        self._looked.set()
        self._version_known.set()
        self.registry.announce_stop()

    def start_draining(self) -> None:
        """Begin a shutdown, or go on with it: the host admits no more requests. Running replies go on."""
        self.announce_stop()
        self.registry.close_admission()

    def is_moving(self) -> bool:
        """Whether the supervision of the models makes progress.

        The caller runs on the event loop. So an answer shows that the event loop makes progress too.
        """
        return self.registry.tick_age_s() < _TICK_LIMIT_S

    def why_not_ready(self) -> NotReady | None:
        """Why requests should not be sent here. None if they should."""
        models = self.registry.list_models()
        return why_not_ready(
            self.tracker.snapshot(),
            models=models,
            is_draining=self._is_draining,
            loads_on_demand=self.registry.loads_on_demand,
        )

    def status_line(self) -> str:
        """What the host does now, in one line for people."""
        if self._is_draining:
            return draining_line(self.registry.loads(), unloading=self.registry.unloading())
        reload = self.reloads()
        return status_line(
            self.tracker.snapshot(),
            loading=self.registry.loading(),
            models=self.registry.list_models(),
            unloading=self.registry.unloading(),
            lost=self.registry.lost(),
            is_reload_refused=reload is not UNSET and reload.error is not None,
        )

    def health(self) -> Health:
        """The body of `/health`, from memory."""
        memory, cpus = self.host_monitor.reading()
        return Health(
            uptime_secs=int(time.monotonic() - self._started_s),
            devices=self.monitor.readings(),
            activation=self.tracker.snapshot(),
            models=self.registry.loads(),
            loading=self.registry.loading(),
            unloading=self.registry.unloading(),
            lost=self.registry.lost(),
            memory=UNSET if memory is None else memory,
            cpus=UNSET if cpus is None else cpus,
            access=self.entrance.rules.state() or UNSET,
            reload=self.reloads(),
        )
