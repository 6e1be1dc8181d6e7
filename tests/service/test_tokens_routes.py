"""Tokens and completions over a host whose models follow scripts: which model is asked, and when it is refused."""

from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Principal, Tokenize
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host

pytestmark = pytest.mark.anyio

A, B = "org/a", "org/b"
MESSAGES = [{"role": "user", "content": "hi"}]
ASKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/tokenize", {"content": "hi"}, {"tokens": [104, 105], "count": 2, "max_model_len": 1024}),
    ("/detokenize", {"tokens": [104, 105]}, {"content": "hi", "prompt": "hi"}),
]


@pytest.mark.parametrize(("path", "body", "answer"), ASKED)
async def test_a_body_without_a_model_means_the_only_one(
    path: str, body: dict[str, Any], answer: dict[str, Any]
) -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post(path, body)
        (task,) = host.harness.requests
    assert (reply.status, reply.json()) == (200, answer)
    assert task.model_id == A


@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body, _ in ASKED])
@pytest.mark.parametrize("resident", [[], [A, B]])
async def test_a_body_without_a_model_is_refused_where_that_means_none_or_many(
    path: str, body: dict[str, Any], resident: list[str]
) -> None:
    async with scripted_host(resident=resident) as host:
        reply = await host.client.post(path, body)
    assert (reply.status, reply.json()["error"]["param"]) == (400, "model")


async def test_tokens_are_told_of_the_model_that_is_named_under_any_of_its_names() -> None:
    async with scripted_host(resident=[A, B]) as host:
        host.real.model_aliases = {"gpt-4o-mini": B}
        for name in (B, "gpt-4o-mini", f"helexa:{B}"):
            assert (await host.client.post("/tokenize", {"model": name, "prompt": "hi"})).status == 200
        assert [task.model_id for task in host.harness.requests] == [B, B, f"helexa:{B}"]
        reply = await host.client.post("/tokenize", {"model": "org/c", "prompt": "hi"})
    assert (reply.status, reply.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_prompt_and_the_tokens_of_a_chat_are_told_to_whoever_asks() -> None:
    headers = {"content-type": "application/json", "x-helexa-account-id": "acc", "x-helexa-key-id": "key"}
    async with scripted_host(resident=[A]) as host:
        prompt = await host.client.post("/apply-template", {"model": A, "messages": MESSAGES}, headers=headers)
        tokens = await host.client.post("/tokenize", {"model": A, "messages": MESSAGES}, headers=headers)
        tasks = host.harness.requests
    assert prompt.json() == {"prompt": "user: hi\n"}
    assert bytes(tokens.json()["tokens"]) == b"user: hi\n"
    assert all(isinstance(task, Tokenize) and task.principal == Principal("acc", "key") for task in tasks)


async def test_tokens_are_told_while_all_seats_are_taken_and_refused_while_the_host_drains() -> None:
    may_speak = anyio.Event()
    async with (
        scripted_host({A: ScriptedModel(may_speak=may_speak, max_in_flight=1)}, resident=[A]) as host,
        host.client.open("POST", "/v1/chat/completions", chat_body(A, stream=True)) as running,
    ):
        await running.chunk()
        assert (await host.client.post("/tokenize", {"content": "hi"})).status == 200
        host.real.start_draining()
        reply = await host.client.post("/tokenize", {"model": A, "content": "hi"})
        assert (reply.status, reply.json()["error"]["code"]) == (503, "shutting_down")
        may_speak.set()
        await running.rest()


async def complete(host: ScriptedHost, **more: Any) -> dict[str, Any]:
    reply = await host.client.post("/v1/completions", {"model": A, "prompt": "once"} | more)
    assert reply.status == 200
    body: dict[str, Any] = reply.json()
    return body


async def test_more_replies_than_there_are_seats_are_one_request_with_all_seats() -> None:
    may_speak = anyio.Event()
    script = ScriptedModel(may_speak=may_speak, max_in_flight=2)
    async with scripted_host({A: script}, resident=[A]) as host, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: complete(host, prompt=["a", "b", "c"]))
        await wait_all_tasks_blocked()
        (load,) = host.registry.loads()
        may_speak.set()
    assert load.in_flight == 2


async def test_a_single_prompt_with_more_replies_than_seats_is_refused_as_in_a_chat() -> None:
    async with scripted_host({A: ScriptedModel(max_in_flight=2)}, resident=[A]) as host:
        reply = await host.client.post("/v1/completions", {"model": A, "prompt": "once", "n": 3})
        assert (reply.status, reply.json()["error"]["param"]) == (400, "n")
        assert len((await complete(host, prompt=["a", "b"], n=2))["choices"]) == 4


async def test_a_stream_of_a_completion_begins_with_its_first_text_and_ends_as_every_stream() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post("/v1/completions", {"model": A, "prompt": "once", "stream": True})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.body.startswith(b'data: {"id":"cmpl-')
    assert b'"text":"Hello"' in reply.body.split(b"\n\n")[0]
    assert reply.body.endswith(b"data: [DONE]\n\n")
