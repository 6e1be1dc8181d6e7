import logging
import os

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from neuron_lib import LoadFailed, LoadProgress, LoadStage, load_default_models
from neuron_lib.discovery import HostMonitor
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Device, Discovery, HostCpus, HostMemory
from neuron_service.routes import host as host_routes
from tests.fakes.log_lines import said
from tests.fakes.scripted_host import CPU_HOST, chat_body, scripted_host, spec
from tests.fakes.wire_shapes import read_discovery, read_health, read_models, read_version
from tests.faults.gateway import ANSWER_LIMIT_S
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio

A, B, C = "org/a", "org/b", "org/c"


async def test_version_says_what_runs() -> None:
    async with scripted_host() as host:
        reply = await host.client.get("/version")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert read_version(reply.body).git_sha == "abc123def"


async def test_discovery_of_a_cpu_host_has_an_empty_device_list_and_no_word_about_cuda() -> None:
    async with scripted_host() as host:
        reply = await host.client.get("/discovery")
    assert reply.json() == {
        "hostname": "testhost",
        "os": "Linux",
        "kernel": "6.0",
        "devices": [],
        "harnesses": ["scripted"],
        "max_prompt_tokens": 16384,
    }
    read_discovery(reply.body)


async def test_discovery_of_a_gpu_host_has_every_field_of_every_device() -> None:
    gpu = Device(index=0, name="GPU", vram_total_mb=24576, compute_capability="8.9")
    found = Discovery(
        hostname="h", os="Linux", kernel="6", devices=(gpu,), harnesses=(), max_prompt_tokens=1, cuda_version="12.4"
    )
    async with scripted_host(discovery=found) as host:
        reply = await host.client.get("/discovery")
    assert read_discovery(reply.body).devices[0].compute_capability == "8.9"


async def test_the_memory_and_the_cpus_of_the_host_are_told_with_their_limits() -> None:
    memory = HostMemory(total_mb=64000, available_mb=32000, limit_mb=8192, limit_available_mb=4096)
    cpus = HostCpus(online=16, usable=8, limit=2.5, load_1m=0.0)
    found = replace(CPU_HOST, memory=HostMemory(total_mb=64000, limit_mb=8192), cpus=HostCpus(online=16, usable=8))
    async with scripted_host(discovery=found) as host:
        discovery = await host.client.get("/discovery")
        before = await host.client.get("/health")
        host.real.host_monitor = HostMonitor(read=lambda: (memory, cpus))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(host.real.host_monitor.run)
            with anyio.fail_after(PATIENCE_S):
                while host.real.host_monitor.reading() == (None, None):
                    await checkpoint()
            tasks.cancel_scope.cancel()
        health = await host.client.get("/health")
    read_discovery(discovery.body)
    assert discovery.json()["memory"] == {"total_mb": 64000, "limit_mb": 8192}
    assert discovery.json()["cpus"] == {"online": 16, "usable": 8}
    assert {"memory", "cpus"}.isdisjoint(before.json())
    read_health(health.body)
    assert health.json()["memory"] == {
        "total_mb": 64000,
        "available_mb": 32000,
        "limit_mb": 8192,
        "limit_available_mb": 4096,
    }
    assert health.json()["cpus"] == {"online": 16, "usable": 8, "limit": 2.5, "load_1m": 0.0}


async def test_discovery_waits_for_the_first_look_at_the_hardware_while_health_does_not() -> None:
    async with scripted_host(discovery=None) as host, host.client.open("GET", "/discovery") as exchange:
        await wait_all_tasks_blocked()
        assert not exchange.returned.is_set()
        assert (await host.client.get("/health")).status == 200
        host.real.set_discovery(CPU_HOST)
        assert read_discovery((await exchange.reply()).body).hostname == "testhost"


async def test_discovery_answers_without_max_prompt_tokens_if_a_look_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert host_routes._DISCOVERY_LIMIT_S + 1 <= ANSWER_LIMIT_S
    async with scripted_host(discovery=None) as host:
        with monkeypatch.context() as patch:
            patch.setattr(host_routes, "_DISCOVERY_LIMIT_S", 0.01)
            reply = await host.client.get("/discovery")
        assert reply.status == 200
        system = os.uname()
        assert reply.json() == {  # the gateway keeps for ever what has a `max_prompt_tokens`
            "hostname": system.nodename,
            "os": system.sysname,
            "kernel": system.release,
            "devices": [],
            "harnesses": ["scripted"],
        }
        host.real.set_discovery(CPU_HOST)
        assert read_discovery((await host.client.get("/discovery")).body).max_prompt_tokens == 16384


async def test_a_stop_before_the_hardware_is_seen_ends_the_wait_of_discovery() -> None:
    async with scripted_host(discovery=None) as host, host.client.open("GET", "/discovery") as waiting:
        await wait_all_tasks_blocked()
        host.real.start_draining()
        for reply in (await waiting.reply(), await host.client.get("/discovery")):
            assert (reply.status, reply.headers["retry-after"]) == (503, "15")
            assert reply.json()["error"]["code"] == "shutting_down"


async def test_discovery_still_answers_on_a_host_that_drains() -> None:
    async with scripted_host() as host:
        host.real.start_draining()
        assert read_discovery((await host.client.get("/discovery")).body).hostname == "testhost"


async def test_health_of_an_empty_host_is_ready() -> None:
    async with scripted_host() as host:
        reply = await host.client.get("/health")
    assert reply.status == 200
    assert reply.json() == {
        "uptime_secs": 0,
        "devices": [],
        "activation": {"state": "ready", "pending": [], "in_progress": None, "completed": [], "failed": []},
        "models": [],
        "loading": [],
        "unloading": [],
        "lost": [],
    }
    read_health(reply.body)


async def test_health_follows_start_up_loading_from_pending_to_ready() -> None:
    may_load = anyio.Event()
    scripts = {
        A: ScriptedModel(may_load=may_load, stages=(LoadProgress(stage=LoadStage.LOADING, fraction=0.25),)),
        B: ScriptedModel(load_error=LoadFailed("weights are cursed")),
    }
    specs = [spec(A), spec(B), spec(C)]
    async with scripted_host(scripts, default_models=specs) as host, anyio.create_task_group() as tasks:
        health = read_health((await host.client.get("/health")).body)
        assert (health.activation.state, health.activation.pending) == ("pre_warming", [A, B, C])

        tasks.start_soon(load_default_models, host.registry, specs, host.tracker)
        await wait_all_tasks_blocked()
        health = read_health((await host.client.get("/health")).body)
        assert (health.activation.in_progress, health.activation.pending) == (A, [B, C])
        assert [(load.model_id, load.progress.stage, load.progress.fraction) for load in health.loading] == [
            (A, "loading", 0.25)
        ]
        assert health.models == []
        assert read_models((await host.client.get("/models")).body) == []

        may_load.set()
        await host.tracker.wait_ready()
        health = read_health((await host.client.get("/health")).body)
        assert health.activation.state == "ready"
        assert health.activation.completed == [A, C]
        assert [(failed.model_id, failed.error) for failed in health.activation.failed] == [(B, "weights are cursed")]
        assert [model.id for model in health.models] == [A, C]
        assert health.loading == []


async def test_a_load_on_demand_shows_in_health_and_leaves_activation_alone() -> None:
    may_load = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_load=may_load)}) as host:
        body = {"model_id": A, "harness": "scripted"}
        async with host.client.open("POST", "/models/load", body) as exchange:
            await wait_all_tasks_blocked()
            health = read_health((await host.client.get("/health")).body)
            assert [load.model_id for load in health.loading] == [A]
            assert health.activation.state == "ready"
            may_load.set()
            assert await exchange.head() == 200
        assert read_health((await host.client.get("/health")).body).activation.completed == []


async def test_health_counts_running_and_waiting_requests_of_a_model_in_mid_stream() -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1)
    async with scripted_host({A: script}, resident=[A]) as host:
        body = chat_body(A, stream=True)
        async with host.client.open("POST", "/v1/chat/completions", body) as running:
            await running.chunk()
            async with host.client.open("POST", "/v1/chat/completions", body):
                await wait_all_tasks_blocked()
                (load,) = read_health((await host.client.get("/health")).body).models
                assert (load.in_flight, load.queue_depth, load.max_in_flight) == (1, 1, 1)
                read_models((await host.client.get("/models")).body)


def asks_as(account: str) -> dict[str, str]:
    return {"content-type": "application/json", "x-helexa-account-id": account, "x-helexa-key-id": "key"}


async def test_a_principal_with_too_many_requests_gets_429_and_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_speak = anyio.Event()
    script = ScriptedModel(may_speak=may_speak, max_in_flight=2, max_per_principal=1)
    async with scripted_host({A: script}, resident=[A]) as host:
        path, body = "/v1/chat/completions", chat_body(A, stream=True)
        async with host.client.open("POST", path, body, headers=asks_as("one")) as running:
            await running.chunk()
            refused = await host.client.post(path, body, headers=asks_as("one"))
            assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert refused.headers["retry-after"] == "2"
            async with host.client.open("POST", path, body, headers=asks_as("two")) as other:
                await other.chunk()
                (load,) = read_health((await host.client.get("/health")).body).models
                assert (load.in_flight, load.rejected_per_principal, load.anon_in_flight) == (2, 1, 0)
                may_speak.set()
                assert await other.head() == 200
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def test_health_tells_the_seats_of_anonymous_callers_who_leave_one_to_principals() -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=2)
    async with scripted_host({A: script}, resident=[A]) as host:
        path, body = "/v1/chat/completions", chat_body(A, stream=True)
        async with host.client.open("POST", path, body, headers=asks_as("one")) as running:
            await running.chunk()
        async with host.client.open("POST", path, body) as first:
            await first.chunk()
            async with host.client.open("POST", path, body) as second:
                await wait_all_tasks_blocked()
                assert not second.returned.is_set()
                (load,) = read_health((await host.client.get("/health")).body).models
                assert (load.in_flight, load.queue_depth) == (1, 1)
                assert (load.anon_in_flight, load.anon_max_in_flight) == (1, 1)
                async with host.client.open("POST", path, body, headers=asks_as("one")) as running:
                    await running.chunk()


async def test_a_model_that_is_being_unloaded_shows_in_health_with_its_requests_and_nowhere_else() -> None:
    may_speak = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_speak=may_speak)}, resident=[A]) as host:
        async with host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=True)) as running:
            await running.chunk()
            async with host.client.open("POST", "/models/unload", {"model_id": A}) as unload:
                await wait_all_tasks_blocked()
                health = read_health((await host.client.get("/health")).body)
                (leaving,) = health.unloading
                assert (leaving.model_id, leaving.running_requests, leaving.is_overdue) == (A, 1, False)
                assert health.models == []
                assert (await host.client.post("/v1/chat/completions", chat_body(A))).status == 404
                may_speak.set()
                assert await unload.head() == 200
        assert read_health((await host.client.get("/health")).body).unloading == []


async def test_a_model_that_died_is_gone_from_models_and_stays_in_lost_until_it_is_loaded_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = ScriptedModel(death="killed by SIGSEGV")
    async with scripted_host({A: script}, resident=[A, B]) as host:
        script.dies.set()
        await wait_all_tasks_blocked()
        health = read_health((await host.client.get("/health")).body)
        assert [(lost.model_id, lost.error) for lost in health.lost] == [(A, "killed by SIGSEGV")]
        assert [model.id for model in read_models((await host.client.get("/models")).body)] == [B]
        assert [model.id for model in health.models] == [B]

        script.dies = anyio.Event()
        await host.registry.load(spec(A))
        assert read_health((await host.client.get("/health")).body).lost == []
    assert [record.levelno for record in caplog.records if said(record) == "model lost"] == [logging.ERROR]
