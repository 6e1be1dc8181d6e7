"""What a gateway asks is answered in the shape that its parsers demand, in every state of a host."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from neuron_lib import load_default_models
from neuron_lib.discovery.health import DeviceMonitor
from neuron_lib.discovery.tool import ToolOutput
from neuron_lib.errors import LoadFailed
from neuron_lib.registry.residency_rules import ResidencyRules
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Device
from tests.fakes.scripted_host import CPU_HOST, ScriptedHost, chat_body, scripted_host, spec
from tests.fakes.wire_shapes import Health, read_discovery, read_health, read_models, read_version

pytestmark = pytest.mark.anyio

A, B = "org/a", "org/b"
GPUS = tuple(Device(index=n, name="Card", vram_total_mb=81_920, compute_capability="9.0") for n in range(2))

State: TypeAlias = Callable[[], AbstractAsyncContextManager[ScriptedHost]]


@asynccontextmanager
async def empty() -> AsyncIterator[ScriptedHost]:
    async with scripted_host() as host:
        yield host


@asynccontextmanager
async def pre_warming() -> AsyncIterator[ScriptedHost]:
    async with scripted_host(default_models=[spec(A), spec(B)]) as host:
        yield host


@asynccontextmanager
async def loading() -> AsyncIterator[ScriptedHost]:
    specs = [spec(A), spec(B)]
    async with (
        scripted_host({A: ScriptedModel(may_load=anyio.Event())}, default_models=specs) as host,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(load_default_models, host.registry, specs, host.tracker)
        await wait_all_tasks_blocked()
        yield host
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def deferred() -> AsyncIterator[ScriptedHost]:
    async with scripted_host(default_models=[spec(A), spec(B)]) as host:
        host.tracker.start_loading(A)
        host.tracker.defer_loading(A, "the hub does not answer")
        yield host


@asynccontextmanager
async def failed() -> AsyncIterator[ScriptedHost]:
    specs = [spec(A)]
    async with scripted_host({A: ScriptedModel(load_error=LoadFailed("no memory"))}, default_models=specs) as host:
        await load_default_models(host.registry, specs, host.tracker)
        yield host


@asynccontextmanager
async def ready() -> AsyncIterator[ScriptedHost]:
    specs = [spec(A), spec(B)]
    async with scripted_host(default_models=specs) as host:
        await load_default_models(host.registry, specs, host.tracker)
        yield host


@asynccontextmanager
async def recovering() -> AsyncIterator[ScriptedHost]:
    async with scripted_host(resident=[A]) as host:
        host.harness.crash(A)
        yield host


@asynccontextmanager
async def lost() -> AsyncIterator[ScriptedHost]:
    script = ScriptedModel(death="killed by SIGSEGV")
    async with scripted_host({A: script}, resident=[A]) as host:
        script.dies.set()
        await wait_all_tasks_blocked()
        yield host


@asynccontextmanager
async def unloading() -> AsyncIterator[ScriptedHost]:
    may_unload = anyio.Event()
    async with (
        scripted_host({A: ScriptedModel(may_unload=may_unload)}, resident=[A]) as host,
        host.client.open("POST", "/models/unload", {"model_id": A}),
    ):
        await wait_all_tasks_blocked()
        yield host
        may_unload.set()


@asynccontextmanager
async def mid_stream() -> AsyncIterator[ScriptedHost]:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1)
    body = chat_body(A, stream=True)
    async with (
        scripted_host({A: script}, resident=[A]) as host,
        host.client.open("POST", "/v1/chat/completions", body) as running,
    ):
        await running.chunk()
        async with host.client.open("POST", "/v1/chat/completions", body):  # waits
            await wait_all_tasks_blocked()
            yield host


@asynccontextmanager
async def making_room() -> AsyncIterator[ScriptedHost]:
    """A model that is busy has to go, and the load of another one waits for that."""
    rules = ResidencyRules(
        makes_room=True, on_demand=(spec(A), spec(B)), exclusive=(frozenset({A, B}),), min_resident_s=0.0
    )
    script = ScriptedModel(may_speak=anyio.Event())
    async with (
        scripted_host({A: script}, resident=[A], residency=rules, wait_for_load_s=3600) as host,
        host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=True)) as running,
    ):
        await running.chunk()
        async with host.client.open("POST", "/v1/chat/completions", chat_body(B)):
            await wait_all_tasks_blocked()
            assert host.registry.residency_counts().waiting_loads == 1
            yield host


@asynccontextmanager
async def draining() -> AsyncIterator[ScriptedHost]:
    async with mid_stream() as host:
        host.real.start_draining()
        yield host


@asynccontextmanager
async def two_gpus() -> AsyncIterator[ScriptedHost]:
    async def read_devices(*_: object, **__: object) -> ToolOutput:
        await checkpoint()
        return ToolOutput("0, 512, 81408, 3, 41\n1, [N/A], [N/A], [N/A], [N/A]\n")

    discovery = replace(CPU_HOST, devices=GPUS, cuda_version="12.8", driver_version="570.1")
    async with scripted_host(resident=[A], discovery=discovery) as host:
        host.real.monitor = DeviceMonitor(run=read_devices)
        await host.real.monitor.refresh()
        yield host


STATES: dict[State, Callable[[Health], bool]] = {
    empty: lambda health: health.activation.state == "ready" and not health.models,
    pre_warming: lambda health: health.activation.pending == [A, B],
    loading: lambda health: health.activation.in_progress == A and len(health.loading) == 1,
    deferred: lambda health: bool(health.activation.deferred) and A in health.activation.pending,
    failed: lambda health: len(health.activation.failed) == 1,
    ready: lambda health: health.activation.completed == [A, B],
    recovering: lambda health: len(health.models) == 1,
    lost: lambda health: len(health.lost) == 1,
    unloading: lambda health: len(health.unloading) == 1,
    mid_stream: lambda health: (health.models[0].in_flight, health.models[0].queue_depth) == (1, 1),
    making_room: lambda health: [model.in_flight for model in health.models] == [1],
    draining: lambda health: health.models[0].in_flight == 1,
    two_gpus: lambda health: len(health.devices) >= 1,
}
"""Each state, and what `/health` says when the host is really in it."""


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_every_poll_of_a_gateway_is_answered_in_its_shape(state: State) -> None:
    async with state() as host:
        health = read_health((await host.client.get("/health")).body)
        assert STATES[state](health)
        read_version((await host.client.get("/version")).body)
        read_discovery((await host.client.get("/discovery")).body)
        metrics = await host.client.get("/metrics")
        assert metrics.status == 200
        assert [*text_string_to_metric_families(metrics.body.decode())]
        models = read_models((await host.client.get("/models")).body)
        assert {model.id for model in models} == {load.id for load in health.models}
        for model in models:
            endpoint = await host.client.get(f"/models/{model.id.replace('/', '%2F')}/endpoint")
            assert (endpoint.status, list(endpoint.json())) == (200, ["url"])
