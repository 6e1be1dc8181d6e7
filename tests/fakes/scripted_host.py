"""The service without a process, a socket or a model: its routes over a registry whose models follow scripts."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType

from neuron_lib import ActivationTracker, ModelSpec, Registry
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import Discovery
from neuron_service.app import create_app
from neuron_service.host import Host
from neuron_service.tallies import Tallies
from neuron_service.version import Version
from tests.fakes.asgi_client import AsgiClient

__all__ = ("CPU_HOST", "ScriptedHost", "chat_body", "scripted_host", "spec")

CPU_HOST = Discovery(
    hostname="testhost", os="Linux", kernel="6.0", devices=(), harnesses=("scripted",), max_prompt_tokens=16384
)


@dataclass(slots=True, frozen=True, kw_only=True)
class ScriptedHost:
    harness: ScriptedHarness
    registry: Registry
    tracker: ActivationTracker
    real: Host
    client: AsgiClient


@asynccontextmanager
async def scripted_host(
    scripts: Mapping[str, ScriptedModel] | None = None,
    *,
    resident: Sequence[str] = (),
    default_models: Sequence[ModelSpec] = (),
    discovery: Discovery | None = CPU_HOST,
    harnesses: tuple[str, ...] = ("scripted",),
    clock: Callable[[], float] = time.monotonic,
    model_aliases: Mapping[str, str] = MappingProxyType({}),
    residency: ResidencyRules | None = None,
    wait_for_load_s: float = 0.0,
) -> AsyncIterator[ScriptedHost]:
    """A host with the models `resident` loaded; `default_models` are known to its tracker, and not loaded."""
    harness = ScriptedHarness(scripts)
    tracker = ActivationTracker(default_models)
    tallies = Tallies()
    async with Registry(
        [harness],
        residency=residency,
        wait_for_load_s=wait_for_load_s,
        clock=clock,
        on_reply=tallies.take_reply,
        on_load=tallies.take_load,
    ) as registry:
        host = Host(
            harnesses=harnesses,
            registry=registry,
            tracker=tracker,
            monitor=DeviceMonitor(),
            model_aliases=model_aliases,
            tallies=tallies,
            version=Version(package_version="1.2.3", git_sha="abc123def"),
        )
        if discovery is not None:
            host.set_discovery(discovery)
        for model_id in resident:
            await registry.load(spec(model_id))
        client = AsgiClient(create_app(host))
        yield ScriptedHost(harness=harness, registry=registry, tracker=tracker, real=host, client=client)


def spec(model_id: str, *, harness: str = "scripted") -> ModelSpec:
    return ModelSpec(model_id=model_id, harness=harness)


def chat_body(model_id: str, *, stream: bool = False, content: str = "hi") -> dict[str, object]:
    return {"model": model_id, "stream": stream, "messages": [{"role": "user", "content": content}]}
