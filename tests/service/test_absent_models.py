"""The answers about models that do not serve yet or no longer serve: 503 with a time, 200, or 404."""

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib import (
    LoadFailed,
    LoadProgress,
    LoadStage,
    ModelLoading,
    ModelNotLoaded,
    SourceUnavailable,
    load_default_models,
)
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import ModelSpec
from tests.fakes.asgi_client import Reply
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host, spec
from tests.fakes.wire_shapes import read_health, read_models

pytestmark = pytest.mark.anyio

A, B, C = "org/a", "org/b", "org/c"
SILENT = SourceUnavailable("the hub is silent", model_id=A)


async def chat(host: ScriptedHost, model_id: str, *, stream: bool = False) -> Reply:
    return await host.client.post("/v1/chat/completions", chat_body(model_id, stream=stream))


async def endpoint_status(host: ScriptedHost, model_id: str) -> int:
    return (await host.client.get(f"/models/{model_id}/endpoint")).status


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_with_a_model_that_loads_is_503_with_a_time_stage_and_fraction(
    *, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    progress = LoadProgress(stage=LoadStage.DOWNLOADING, bytes=1, total_bytes=4, eta_s=42)
    script = ScriptedModel(may_load=anyio.Event(), stages=[progress])
    async with scripted_host({A: script}) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(host.registry.load, spec(A))
        await wait_all_tasks_blocked()
        reply = await chat(host, A, stream=stream)
        assert (reply.status, reply.headers["retry-after"]) == (503, "42")
        error = reply.json()["error"]
        assert (error.pop("type"), error.pop("code"), error.pop("param")) == ("api_error", "model_loading", None)
        assert "downloading 25 %" in error.pop("message")
        assert error == {"model_id": A, "stage": "downloading", "fraction": 0.25, "eta_s": 42}
        assert await endpoint_status(host, A) == 200
        assert read_models((await host.client.get("/models")).body) == []
        assert script.may_load is not None
        script.may_load.set()
    assert [record.__dict__["code"] for record in caplog.records if record.levelname == "WARNING"] == ["model_loading"]


async def test_a_chat_with_a_default_model_is_503_from_the_start_while_it_is_deferred_and_404_once_it_has_failed() -> (
    None
):
    scripts = {A: ScriptedModel(load_error=SILENT), B: ScriptedModel(load_error=LoadFailed("weights are cursed"))}
    specs = [spec(A), spec(B)]
    async with scripted_host(scripts, default_models=specs) as host, anyio.create_task_group() as tasks:
        for model_id in (A, B):
            reply = await chat(host, model_id)
            assert (reply.status, reply.headers["retry-after"]) == (503, "5")
            assert reply.json()["error"]["stage"] == "pending"
            assert await endpoint_status(host, model_id) == 200
        assert ((await chat(host, C)).status, await endpoint_status(host, C)) == (404, 404)

        tasks.start_soon(load_default_models, host.registry, specs, host.tracker)
        await wait_all_tasks_blocked()
        reply = await chat(host, A)
        error = reply.json()["error"]
        assert (reply.status, error["code"], error["stage"], error["attempt"]) == (503, "model_loading", "deferred", 1)
        assert 1 <= int(reply.headers["retry-after"]) <= 10
        assert "the hub is silent" in error["message"]
        assert await endpoint_status(host, A) == 200

        reply = await chat(host, B)
        assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert reply.json()["error"]["message"].endswith("its last load failed: weights are cursed")
        assert await endpoint_status(host, B) == 404
        tasks.cancel_scope.cancel()


async def test_a_deferred_model_shows_in_health_with_its_reason_and_does_not_delay_readiness() -> None:
    specs = [spec(A), spec(B)]
    script = ScriptedModel(load_error=SILENT)
    async with scripted_host({A: script}, default_models=specs) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(load_default_models, host.registry, specs, host.tracker)
        await wait_all_tasks_blocked()
        activation = read_health((await host.client.get("/health")).body).activation
        assert (activation.state, activation.pending, activation.completed) == ("pre_warming", [A], [B])
        assert isinstance(activation.deferred, list)
        (entry,) = activation.deferred
        assert (entry.model_id, entry.error, entry.attempt) == (A, "the hub is silent", 1)
        assert 0 < entry.next_try_secs <= 10
        reply = await host.client.get("/readyz")
        assert (reply.status, reply.json()["reason"]) == (200, None)
        assert reply.json()["detail"].startswith("serving 1 model, 1 of 2 models still to load, next try in ")
        tasks.cancel_scope.cancel()


async def test_a_host_on_which_every_default_model_is_deferred_is_not_ready() -> None:
    async with (
        scripted_host({A: ScriptedModel(load_error=SILENT)}, default_models=[spec(A)]) as host,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(load_default_models, host.registry, [spec(A)], host.tracker)
        await wait_all_tasks_blocked()
        reply = await host.client.get("/readyz")
        assert (reply.status, reply.json()["reason"]) == (503, "loading")
        tasks.cancel_scope.cancel()


async def test_a_default_model_that_is_loaded_on_demand_is_completed_and_no_longer_pending() -> None:
    may_load = anyio.Event()
    scripts = {A: ScriptedModel(may_load=may_load), B: ScriptedModel(may_load=anyio.Event())}
    specs = [spec(A), spec(B), spec(C)]
    async with scripted_host(scripts, default_models=specs) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(load_default_models, host.registry, specs, host.tracker)
        await wait_all_tasks_blocked()
        load = await host.client.post("/models/load", {"model_id": C, "harness": "scripted"})
        assert load.status == 200
        activation = read_health((await host.client.get("/health")).body).activation
        assert (activation.in_progress, activation.pending, activation.completed) == (A, [B], [C])
        assert [model.id for model in read_models((await host.client.get("/models")).body)] == [C]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("configured", "loaded"),
    [("org/a:Q8_0", {"model_id": "org/a", "quant": "q8-0"}), ("org/a", {"model_id": "org/a:Q8_0"})],
)
async def test_a_default_model_that_was_loaded_under_another_spelling_of_its_id_makes_the_host_ready(
    configured: str, loaded: dict[str, str]
) -> None:
    specs = [ModelSpec(model_id=configured, harness="scripted", quant="Q8_0")]
    async with scripted_host(default_models=specs) as host:
        assert (await host.client.post("/models/load", {**loaded, "harness": "scripted"})).status == 200
        await load_default_models(host.registry, specs, host.tracker)
        assert [model.id for model in read_models((await host.client.get("/models")).body)] == [loaded["model_id"]]
        assert (await chat(host, configured)).status == 200
        reply = await host.client.get("/readyz")
        assert (reply.status, reply.json()["reason"]) == (200, None)


async def test_a_host_that_drains_lists_its_models_as_recovering_from_the_first_moment_and_keeps_their_endpoints() -> (
    None
):
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A, B], default_models=[spec(A), spec(C)]) as host:
        created = (await host.client.get("/v1/models")).json()
        async with host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=True)) as running:
            await running.chunk()
            host.real.start_draining()
            models = read_models((await host.client.get("/models")).body)
            assert [(model.id, model.status) for model in models] == [(A, "recovering"), (B, "recovering")]
            assert (await host.client.get("/v1/models")).json() == created
            assert [await endpoint_status(host, model_id) for model_id in (A, B, C, "org/other")] == [200] * 3 + [404]
            for model_id in (A, C):
                reply = await chat(host, model_id)
                assert (reply.status, reply.headers["retry-after"]) == (503, "15")
                assert reply.json()["error"]["code"] == "shutting_down"
            assert script.may_speak is not None
            script.may_speak.set()
            assert (await running.rest()).endswith(b"data: [DONE]\n\n")


async def test_a_model_that_is_being_unloaded_is_not_listed_and_not_found() -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with (
        scripted_host({A: script}, resident=[A, B]) as host,
        host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=True)) as running,
    ):
        await running.chunk()
        async with host.client.open("POST", "/models/unload", {"model_id": A}) as unload:
            await wait_all_tasks_blocked()
            models = read_models((await host.client.get("/models")).body)
            assert [(model.id, model.status) for model in models] == [(B, "loaded")]
            assert await endpoint_status(host, A) == 404
            assert (await chat(host, A)).status == 404
            assert script.may_speak is not None
            script.may_speak.set()
            assert await unload.head() == 200


async def test_v1_models_says_when_each_model_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted_host() as host:
        for model_id, now_s in ((A, 1_800_000_000.5), (B, 1_800_000_100.0)):
            with monkeypatch.context() as patch:
                patch.setattr("time.time", lambda now_s=now_s: now_s)
                await host.registry.load(spec(model_id))
        for _ in range(2):
            listed = (await host.client.get("/v1/models")).json()["data"]
            assert [(model["id"], model["created"]) for model in listed] == [(A, 1_800_000_000), (B, 1_800_000_100)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_that_may_wait_for_its_model_has_no_answer_until_it_serves_and_then_its_reply(
    *, stream: bool
) -> None:
    script = ScriptedModel(may_load=anyio.Event())
    async with scripted_host({A: script}) as host, anyio.create_task_group() as tasks:
        host.registry.wait_for_load_s = 30.0
        tasks.start_soon(host.registry.load, spec(A))
        await wait_all_tasks_blocked()
        async with host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=stream)) as waiting:
            await wait_all_tasks_blocked()
            assert not waiting.status
            assert script.may_load is not None
            script.may_load.set()
            assert await waiting.head() == 200


async def test_a_chat_that_waits_for_its_model_ends_when_its_client_hangs_up() -> None:
    async with scripted_host({A: ScriptedModel()}, default_models=[spec(A)]) as host:
        host.registry.wait_for_load_s = 3600.0
        async with host.client.open("POST", "/v1/chat/completions", chat_body(A)) as waiting:
            await wait_all_tasks_blocked()
            assert not waiting.returned.is_set()
            waiting.hang_up()
            await waiting.returned.wait()


def test_model_loading_is_a_kind_of_model_not_loaded() -> None:
    """A program that handles `ModelNotLoaded` then handles `ModelLoading` too."""
    assert issubclass(ModelLoading, ModelNotLoaded)
