import logging

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib import LoadFailed, SourceUnavailable
from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Discovery
from tests.fakes.asgi_client import Reply
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host
from tests.fakes.wire_shapes import read_models

pytestmark = pytest.mark.anyio

A, B = "org/a", "org/b"
BROKEN_CUDA = Discovery(
    hostname="h",
    os="Linux",
    kernel="6",
    devices=(),
    harnesses=("scripted",),
    max_prompt_tokens=1,
    cuda_unavailable_reason="the driver does not match its library; reboot the host",
)


async def load(host: ScriptedHost, model_id: str, **extra: object) -> Reply:
    return await host.client.post("/models/load", {"model_id": model_id, "harness": "scripted", **extra})


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


# ---------------------------------------------------------------------------------------------------------- listing


async def test_models_is_a_bare_array_of_the_resident_models() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.get("/models")
    assert reply.status == 200
    assert reply.json() == [
        {
            "id": A,
            "harness": "scripted",
            "status": "loaded",
            "devices": [0],
            "capabilities": ["text"],
            "limit": {"context": 1024, "output": 1024},
        }
    ]
    read_models(reply.body)


async def test_v1_models_is_openai_s_list() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.get("/v1/models")
    assert reply.headers["content-type"] == "application/json"
    listed = reply.json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert isinstance(model.pop("created"), int)
    assert model == {
        "id": A,
        "object": "model",
        "owned_by": "neuron",
        "max_model_len": 1024,
        "limit": {"context": 1024, "output": 1024},
        "capabilities": ["text"],
    }


# ---------------------------------------------------------------------------------------------------------- loading


async def test_a_load_answers_when_the_model_serves_and_not_before() -> None:
    may_load = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_load=may_load)}) as host:
        body: dict[str, object] = {"model_id": A, "harness": "scripted", "quant": None, "devices": []}
        async with host.client.open("POST", "/models/load", body) as exchange:
            await wait_all_tasks_blocked()
            assert not exchange.status
            may_load.set()
            reply = await exchange.reply()
        assert (reply.status, reply.body) == (200, b'{"status":"loaded"}')
        assert (await host.client.post("/v1/chat/completions", chat_body(A))).status == 200


async def test_of_two_loads_of_one_model_one_loads_and_the_other_is_answered_already_loaded() -> None:
    may_load = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_load=may_load)}) as host:
        replies: list[Reply] = []

        async def ask() -> None:
            replies.append(await load(host, A))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
            await wait_all_tasks_blocked()
            may_load.set()
        assert sorted(reply.status for reply in replies) == [200, 400]
        (refusal,) = (reply for reply in replies if reply.status == 400)
        assert "already loaded" in refusal.json()["error"]
        assert host.harness.log.count(f"open {A}") == 1


async def test_a_client_that_hangs_up_does_not_stop_the_load_that_it_asked_for() -> None:
    may_load = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_load=may_load)}) as host:
        body = {"model_id": A, "harness": "scripted"}
        async with host.client.open("POST", "/models/load", body) as exchange:
            await wait_all_tasks_blocked()
            exchange.hang_up()
            await wait_all_tasks_blocked()
            may_load.set()
        assert [model.id for model in host.registry.list_models()] == [A]


async def test_a_scheme_qualified_model_is_published_and_found_under_its_bare_id() -> None:
    async with scripted_host() as host:
        for spelling in (A, f"helexa:{A}", f"huggingface:{A}"):
            assert (await load(host, f"helexa:{A}")).status == 200
            assert [model["id"] for model in (await host.client.get("/models")).json()] == [A]
            assert (await host.client.post("/v1/chat/completions", chat_body(spelling))).status == 200
            assert (await host.client.post("/models/unload", {"model_id": spelling})).status == 200
            assert (await host.client.get("/models")).json() == []


@pytest.mark.parametrize("spelling", [A, f"helexa:{A}", f"huggingface:{A}"])
@pytest.mark.parametrize("resident", [A, f"helexa:{A}"])
async def test_a_resident_model_is_already_loaded_whatever_source_is_named_for_it(resident: str, spelling: str) -> None:
    async with scripted_host() as host:
        await load(host, resident)
        reply = await load(host, spelling)
        assert (reply.status, reply.json()) == (400, {"error": f"model {A!r} is already loaded"})
        assert host.harness.log.count(f"open {A}") == 1


async def test_an_unload_under_another_spelling_cancels_the_load() -> None:
    async with scripted_host({A: ScriptedModel(may_load=anyio.Event())}) as host:
        body = {"model_id": f"helexa:{A}", "harness": "scripted"}
        async with host.client.open("POST", "/models/load", body) as exchange:
            await wait_all_tasks_blocked()
            assert (await host.client.post("/models/unload", {"model_id": A})).status == 200
            assert (await exchange.reply()).status == 400


PREFLIGHT = PreflightFailed(
    PreflightKind.QUANT_NOT_FOUND, "no such quant", model_id="huggingface:org/a", requested="q9", available=["q4"]
)


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (LoadFailed("engine said no"), 400, {"error": "engine said no"}),
        (ValueError("a bug"), 400, {"error": "harness 'scripted' failed with a bug: ValueError: a bug"}),
        (
            LoadFailed("another model is already loaded on GPU 0"),
            400,
            {"error": "another model is already resident on GPU 0"},
        ),
        (
            PREFLIGHT,
            422,
            {
                "error": {
                    "kind": "quant_not_found",
                    "message": "no such quant",
                    "model_id": "huggingface:org/a",
                    "requested": "q9",
                    "available": ["q4"],
                }
            },
        ),
        (
            SourceUnavailable("the hub is away", model_id="huggingface:org/a"),
            422,
            {
                "error": {
                    "kind": "repo_fetch_failed",
                    "message": "the hub is away",
                    "cause": "the hub is away",
                    "model_id": "huggingface:org/a",
                }
            },
        ),
    ],
)
async def test_a_failed_load_is_answered_in_its_own_shape_and_logged_once_with_its_reason(
    error: Exception, status: int, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host({A: ScriptedModel(load_error=error)}) as host:
        reply = await load(host, A)
    assert (reply.status, reply.json()) == (status, body)
    refusals = [record for record in warnings(caplog) if record.levelno == logging.WARNING]
    assert len(refusals) == 1
    assert str(error) in refusals[0].getMessage()
    assert refusals[0].__dict__["status"] == status


async def test_a_load_beyond_the_limit_of_loads_is_a_flat_503_with_retry_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    may_load = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_load=may_load)}) as host:
        host.registry.limits.max_loads = 1
        async with host.client.open("POST", "/models/load", {"model_id": A, "harness": "scripted"}) as exchange:
            await wait_all_tasks_blocked()
            reply = await load(host, B)
            may_load.set()
            assert (await exchange.reply()).status == 200
    assert (reply.status, reply.headers["retry-after"]) == (503, "30")
    assert reply.json()["code"] == "rate_limit_exceeded"
    assert reply.json()["error"].startswith("1 loads are under way on this host")
    assert [record.__dict__["model_id"] for record in warnings(caplog)] == [B]


async def test_a_load_with_an_unknown_harness_is_a_flat_400_that_names_it() -> None:
    async with scripted_host() as host:
        reply = await host.client.post("/models/load", {"model_id": A, "harness": "steam"})
    assert reply.status == 400
    assert "steam" in reply.json()["error"]


@pytest.mark.parametrize("body", [{"model_id": A}, {"model_id": A, "harness": None}])
async def test_a_load_need_not_name_the_only_harness(body: dict[str, object]) -> None:
    async with scripted_host() as host:
        reply = await host.client.post("/models/load", body)
        assert host.registry.list_models()[0].harness == "scripted"
    assert (reply.status, reply.json()) == (200, {"status": "loaded"})


@pytest.mark.parametrize("body", [{"model_id": A, "harness": 1}, {"harness": "scripted"}, [], "x"])
async def test_a_load_of_the_wrong_shape_is_a_nested_422(body: object, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_host() as host:
        reply = await host.client.post("/models/load", body)
        assert host.harness.log == []
    assert (reply.status, reply.json()["error"]["code"]) == (422, "invalid_request_body")
    assert len(warnings(caplog)) == 1


async def test_no_model_is_loaded_on_a_host_whose_driver_is_broken(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_host(discovery=BROKEN_CUDA) as host:
        reply = await load(host, A)
        assert host.harness.log == []
    assert reply.status == 503
    assert reply.json() == {"error": BROKEN_CUDA.cuda_unavailable_reason, "code": "cuda_unavailable"}
    assert [record.__dict__["code"] for record in warnings(caplog)] == ["cuda_unavailable"]


async def test_a_stop_before_the_hardware_is_seen_refuses_the_loads_that_wait_and_later_loads() -> None:
    body = {"model_id": A, "harness": "scripted"}
    async with scripted_host(discovery=None) as host, host.client.open("POST", "/models/load", body) as waiting:
        await wait_all_tasks_blocked()
        host.real.start_draining()
        for reply in (await waiting.reply(), await load(host, B)):
            assert (reply.status, reply.headers["retry-after"]) == (503, "15")
            assert reply.json() == {"error": "this host is shutting down", "code": "shutting_down"}
        assert host.harness.log == []


# -------------------------------------------------------------------------------------------------------- unloading


async def test_an_unload_answers_when_the_model_is_closed() -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A]) as host:
        body = chat_body(A, stream=True)
        async with host.client.open("POST", "/v1/chat/completions", body) as stream:
            await stream.chunk()
            async with host.client.open("POST", "/models/unload", {"model_id": A, "extra": 1}) as unload:
                await wait_all_tasks_blocked()
                assert not unload.status
                assert script.may_speak is not None
                script.may_speak.set()
                assert (await stream.rest()).endswith(b"data: [DONE]\n\n")
                reply = await unload.reply()
        assert (reply.status, reply.body) == (200, b'{"status":"unloaded"}')
        assert host.harness.log[-2:] == [f"end {A}", f"close {A}"]


async def test_an_unload_of_a_model_that_is_not_loaded_is_a_flat_404(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_host() as host:
        reply = await host.client.post("/models/unload", {"model_id": A})
    assert reply.status == 404
    assert A in reply.json()["error"]
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("body", [{}, {"model_id": 7}, {"model_id": None}, []])
async def test_an_unload_that_names_no_model_is_a_flat_400(body: object) -> None:
    async with scripted_host() as host:
        reply = await host.client.post("/models/unload", body)
    assert reply.status == 400
    assert isinstance(reply.json()["error"], str)


# ------------------------------------------------------------------------------------------------- about one model


@pytest.mark.parametrize(
    "spelling", ["org%2Fa", "org/a", "helexa%3Aorg%2Fa", "helexa:org/a", "helexa%3Aorg/a", "org%2fa"]
)
async def test_every_spelling_of_an_id_finds_the_model(spelling: str) -> None:
    async with scripted_host(resident=[A]) as host:
        endpoint = await host.client.get(f"/models/{spelling}/endpoint")
        capabilities = await host.client.get(f"/models/{spelling}/capabilities")
    assert (endpoint.status, endpoint.json()) == (200, {"url": "http://localhost:13131"})
    assert (capabilities.status, capabilities.json()) == (200, {"capabilities": ["text"]})


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
@pytest.mark.parametrize("spelling", ["org%2Fa", "org/a", "helexa%3Aorg%2Fa", "org%2fa"])
async def test_one_model_is_the_entry_of_openai_s_list(path: str, spelling: str) -> None:
    async with scripted_host(resident=[A, B]) as host:
        reply = await host.client.get(f"{path}/{spelling}")
        listed = await host.client.get("/v1/models")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == listed.json()["data"][0]


async def test_one_model_is_found_by_an_alias_and_named_by_its_id() -> None:
    async with scripted_host(resident=[A]) as host:
        host.real.model_aliases = {"gpt-4o-mini": A}
        assert (await host.client.get("/v1/models/gpt-4o-mini")).json()["id"] == A


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
@pytest.mark.parametrize("model_id", ["org/unknown", "..%2F..%2Fetc%2Fpasswd", "%ff%fe", "a%0d%0ab/c", "x" * 10_000])
async def test_one_model_that_is_unknown_is_openai_s_404(path: str, model_id: str) -> None:
    async with scripted_host() as host:
        reply = await host.client.get(f"{path}/{model_id}")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_one_model_that_is_being_loaded_is_refused_as_a_chat_with_it_is() -> None:
    may_load = anyio.Event()
    async with scripted_host({A: ScriptedModel(may_load=may_load)}) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(load, host, A)
        await wait_all_tasks_blocked()
        told = await host.client.get(f"/v1/models/{A}")
        chat = await host.client.post("/v1/chat/completions", chat_body(A))
        may_load.set()
    assert (told.status, told.json()["error"]["code"]) == (503, "model_loading")
    assert (told.body, told.headers) == (chat.body, chat.headers)


async def test_one_model_is_told_of_as_long_as_a_host_that_drains_lists_it() -> None:
    async with scripted_host(resident=[A]) as host:
        before = await host.client.get(f"/v1/models/{A}")
        host.real.start_draining()
        assert (await host.client.get(f"/v1/models/{A}")).json() == before.json()
        assert (await host.client.post("/models/unload", {"model_id": A})).status == 200
        assert [model["id"] for model in (await host.client.get("/v1/models")).json()["data"]] == [A]
        assert (await host.client.get(f"/v1/models/{A}")).json() == before.json()
        assert (await host.client.get(f"/v1/models/{B}")).status == 404


# --------------------------------------------------------------------------------------------------------- images

IMAGE = {"model": A, "prompt": "a fox"}


@pytest.mark.parametrize("path", ["/v1/images/generations", "/images/generations"])
async def test_images_are_refused_by_the_model_s_use(path: str) -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post(path, IMAGE | {"n": 1, "size": "512x512", "seed": 7})
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["model_id"]) == (422, "wrong_modality", A)
    assert error["suggestion"] == "choose a model whose capabilities include image"


async def test_images_of_a_model_that_is_not_resident_are_a_404() -> None:
    async with scripted_host() as host:
        reply = await host.client.post("/v1/images/generations", IMAGE)
    assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_images_with_a_wrong_body_are_refused_by_the_wrong_value() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post("/v1/images/generations", IMAGE | {"size": "huge"})
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["param"]) == (400, "invalid_size", "size")


async def test_a_recovering_model_stays_listed_with_its_endpoint_and_chats_get_a_503_with_retry_after() -> None:
    async with scripted_host(resident=[A]) as host:
        host.harness.crash(A)
        endpoint = await host.client.get(f"/models/{A}/endpoint")
        (listed,) = (await host.client.get("/models")).json()
        chat = await host.client.post("/v1/chat/completions", chat_body(A))
    assert (endpoint.status, endpoint.json()) == (200, {"url": "http://localhost:13131"})
    assert (listed["id"], listed["status"]) == (A, "recovering")
    assert (chat.status, chat.headers["retry-after"]) == (503, "2")


@pytest.mark.parametrize("question", ["endpoint", "capabilities"])
@pytest.mark.parametrize(
    "model_id",
    ["org/unknown", "..%2F..%2Fetc%2Fpasswd", "%00", "%ff%fe", "a%0d%0ab/c", "%22", "endpoint", "x" * 10_000],
)
async def test_a_question_about_an_unknown_model_is_a_flat_404(question: str, model_id: str) -> None:
    async with scripted_host() as host:
        reply = await host.client.get(f"/models/{model_id}/{question}")
    assert reply.status == 404
    assert isinstance(reply.json()["error"], str)


async def test_capabilities_of_a_model_on_disk_are_known_although_it_is_not_resident() -> None:
    async with scripted_host(
        {A: ScriptedModel(capabilities=("text", "vision")), B: ScriptedModel(capabilities=())}
    ) as host:
        assert (await host.client.get("/models/org%2Fa/capabilities")).json() == {"capabilities": ["text", "vision"]}
        assert (await host.client.get("/models/org%2Fb/capabilities")).json() == {"capabilities": []}
        assert (await host.client.get("/models/org%2Fa/endpoint")).status == 404


async def test_a_host_without_any_harness_says_so_to_loads_and_chats() -> None:
    async with scripted_host(harnesses=()) as host:
        load = await host.client.post("/models/load", {"model_id": "org/a", "harness": "llamacpp"})
        chat = await host.client.post("/v1/chat/completions", chat_body("org/a"))
    text = "no harness is configured on this host: it serves no models"
    assert (load.status, load.json()) == (503, {"error": text, "code": "no_harness"})
    assert (chat.status, chat.json()["error"]["message"]) == (503, text)
