"""What a client is told by a host that loads models on demand."""

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib.errors import LoadFailed, PreflightFailed
from neuron_lib.registry.residency_rules import ModelRules, ResidencyRules
from neuron_lib.testing import ScriptedModel
from tests.fakes.asgi_client import Reply
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host, spec
from tests.fakes.wire_shapes import read_health, read_models
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio

A, B, OTHER = "org/a", "org/b", "org/other"
ON_DEMAND = ResidencyRules(makes_room=True, on_demand=(spec(A), spec(B)))


async def chat(host: ScriptedHost, model_id: str, **more: object) -> Reply:
    return await host.client.post("/v1/chat/completions", chat_body(model_id) | more)


async def listed(host: ScriptedHost) -> list[str]:
    return [model["id"] for model in (await host.client.get("/v1/models")).json()["data"]]


@pytest.mark.parametrize("asked", [A, "hf.co/org/a", "gpt-4"])
async def test_a_chat_loads_its_model_by_any_name_and_is_answered(asked: str) -> None:
    async with scripted_host(residency=ON_DEMAND, wait_for_load_s=PATIENCE_S, model_aliases={"gpt-4": A}) as host:
        assert (await chat(host, asked)).status == 200
        assert [info.id for info in host.registry.list_models()] == [A]


async def test_a_chat_with_a_model_that_is_not_configured_is_404() -> None:
    async with scripted_host(residency=ON_DEMAND, wait_for_load_s=PATIENCE_S) as host:
        reply = await chat(host, OTHER)
        assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")
        assert host.harness.log == []


async def test_a_chat_that_may_not_wait_is_503_with_a_time_and_the_load_goes_on() -> None:
    script = ScriptedModel(may_load=anyio.Event())
    async with scripted_host({A: script}, residency=ON_DEMAND) as host:
        reply = await chat(host, A)
        assert (reply.status, reply.json()["error"]["code"]) == (503, "model_loading")
        assert int(reply.headers["retry-after"]) > 0
        assert script.may_load is not None
        script.may_load.set()
        await wait_all_tasks_blocked()
        assert (await chat(host, A)).status == 200


async def test_a_model_whose_load_failed_is_503_with_the_reason_and_a_time() -> None:
    async with scripted_host(
        {A: ScriptedModel(load_error=LoadFailed("too new"))}, residency=ON_DEMAND, wait_for_load_s=PATIENCE_S
    ) as host:
        for _ in range(2):
            reply = await chat(host, A)
            error = reply.json()["error"]
            assert (reply.status, error["stage"], error["attempt"]) == (503, "cooling_down", 1)
            assert "too new" in error["message"]
            assert 1 <= int(reply.headers["retry-after"]) <= 10
        assert host.harness.log.count(f"open {A}") == 1


async def test_a_model_that_can_never_fit_is_422_with_what_is_needed_and_what_is_free() -> None:
    lack = PreflightFailed.of_memory("too large", model_id=A, device="cpu", needed_bytes=5 << 20, free_bytes=3 << 20)
    async with scripted_host(
        {A: ScriptedModel(load_error=lack)}, residency=ON_DEMAND, wait_for_load_s=PATIENCE_S
    ) as host:
        for _ in range(2):
            reply = await chat(host, A)
            error = reply.json()["error"]
            assert (reply.status, error["type"], error["code"]) == (422, "invalid_request_error", "insufficient_memory")
            assert (error["device"], error["needed_mb"], error["free_mb"]) == ("cpu", 5, 3)
            assert "retry-after" not in reply.headers
        assert host.harness.log.count(f"open {A}") == 1


async def test_openai_s_list_has_what_a_request_would_load_and_the_gateway_s_has_not() -> None:
    async with scripted_host(residency=ON_DEMAND, resident=[B]) as host:
        assert await listed(host) == [B, A]
        assert [model.id for model in read_models((await host.client.get("/models")).body)] == [B]
        assert [model.id for model in read_health((await host.client.get("/health")).body).models] == [B]
        assert (await host.client.get(f"/v1/models/{A}")).json()["id"] == A
        assert (await host.client.get(f"/v1/models/{OTHER}")).status == 404
        assert [(await host.client.get(f"/models/{id_}/endpoint")).status for id_ in (A, B, OTHER)] == [200, 200, 404]


async def test_without_on_demand_no_list_has_more_than_the_resident_models() -> None:
    async with scripted_host(resident=[B]) as host:
        assert await listed(host) == [B]
        assert (await host.client.get(f"/v1/models/{A}")).status == 404


async def test_a_host_that_loads_on_demand_is_ready_without_a_model() -> None:
    async with scripted_host(residency=ON_DEMAND, default_models=[spec(A)]) as host:
        assert (await host.client.get("/readyz")).status == 503
        host.tracker.fail_loading(A, "it does not fit beside the others")
        host.tracker.mark_ready()
        assert (await host.client.get("/readyz")).status == 200


async def test_a_host_that_stops_lists_nothing_more_to_load() -> None:
    async with scripted_host(residency=ON_DEMAND) as host:
        host.registry.close_admission()
        assert await listed(host) == []
        assert (await chat(host, A)).status == 503


async def test_a_request_says_how_long_its_model_stays_where_models_are_loaded_on_demand() -> None:
    limits = ResidencyRules(makes_room=True, min_resident_s=0.0, default=ModelRules())
    async with scripted_host(residency=limits, resident=[A]) as host:
        assert (await chat(host, A, keep_alive="1h")).status == 200
        await wait_all_tasks_blocked()
        assert [info.id for info in host.registry.list_models()] == [A]
        assert (await chat(host, A, keep_alive=0)).status == 200
        with anyio.fail_after(PATIENCE_S):
            await host.registry._models.changes.until(lambda: not host.registry.list_models())


async def test_elsewhere_such_a_request_is_refused_by_the_name_of_the_field() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await chat(host, A, keep_alive=0)
        error = reply.json()["error"]
        assert (reply.status, error["code"], error["param"]) == (400, "invalid_request_body", "keep_alive")
        assert (await chat(host, A, keep_alive=-1)).status == 200
