"""A model at another server, over real sockets: how it is found, asked, lost, and found again."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from neuron_lib.errors import (
    EngineDead,
    LoadFailed,
    NeuronError,
    Overloaded,
    OverloadReason,
    SourceUnavailable,
    UnsupportedCapability,
    UpstreamRefused,
)
from neuron_lib.registry.harness_by_format import HarnessByFormat
from neuron_lib.remote.engine import RemoteEngine
from neuron_lib.remote.entry import Health, RemoteEntry, RemoteModel
from neuron_lib.remote.harness import RemoteHarness, _is_loopback
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.testing import ScriptedHarness
from neuron_lib.types import Chat, Detokenize, Finished, ModelLimit, ModelSpec, ModelStatus, Task, TextDelta
from neuron_lib.upstream.model import UpstreamModel
from tests.fakes.authority import Authority
from tests.fakes.raw_upstream import answer, sse
from tests.fakes.remote_server import END, HELLO, RemoteServer, listed, remote_server
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.both_loops]

KEY = "sk-sesame-0123456789"
CHAT = Chat(model_id="org/model", messages=({"role": "user", "content": "Hi"},), max_tokens=9)
SPEC = ModelSpec(model_id="org/model", harness="gpu2")
CHATS = "/v1/chat/completions"
OFTEN = Health(interval_secs=0.1)
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BEGUN = f"data: {HELLO}\n\n".encode()

Model = UpstreamModel[RemoteEngine]


def harness(
    port: int, *, environ: Mapping[str, str] | None = None, scheme: str = "http", most_deaths: int = 1000, **keys: Any
) -> RemoteHarness:
    entry = RemoteEntry(name="gpu2", kind="remote", url=f"{scheme}://127.0.0.1:{port}/v1", **keys)
    policy = partial(RestartPolicy, most_deaths=most_deaths, first_pause_s=0.01, longest_pause_s=0.01)
    return RemoteHarness(entry, environ=environ or {}, policy=policy)


@asynccontextmanager
async def opened(it: RemoteHarness, spec: ModelSpec = SPEC) -> AsyncIterator[Model]:
    with anyio.fail_after(PATIENCE_S):
        async with it.open(spec, model_id=spec.model_id, report=lambda _progress: None) as model:
            yield model


async def failure(it: RemoteHarness, spec: ModelSpec = SPEC) -> LoadFailed | SourceUnavailable:
    with pytest.raises((LoadFailed, SourceUnavailable)) as caught:
        async with opened(it, spec):
            pytest.fail("it was loaded")
    assert isinstance(caught.value, LoadFailed | SourceUnavailable)
    return caught.value


async def said(model: Model, task: Task = CHAT) -> str:
    async with model.run(task) as reply:
        events = [event async for event in reply]
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(model: Model, status: ModelStatus) -> None:
    while model.info().status is not status:  # noqa: ASYNC110 - nobody tells a test
        await anyio.sleep(0.01)


# ------------------------------------------------------------------------------------------------------ how it is found


async def test_a_model_is_asked_by_the_name_that_it_has_there() -> None:
    models = {"org/model": RemoteModel(model_name="theirs", capabilities=("text",), context=512)}
    async with remote_server(["theirs"]) as server, opened(harness(server.port, models=models)) as model:
        info = model.info()
        assert (info.id, info.harness, info.status) == ("org/model", "gpu2", ModelStatus.LOADED)
        assert (info.capabilities, info.limit) == (("text",), ModelLimit(context=512, output=512))
        assert (info.vram_used_mb, info.ram_used_mb, info.devices) == (None, None, ())
        assert await said(model) == "Hello"
        assert server.body(CHATS)["model"] == "theirs"


@pytest.mark.parametrize(
    ("api", "owner", "field"),
    [
        ("auto", "openai", "max_completion_tokens"),
        ("auto", "me", "max_tokens"),
        ("openai", "me", "max_completion_tokens"),
        ("vllm", "openai", "max_tokens"),
        ("llama-cpp-python", "me", "max_tokens"),
    ],
)
async def test_what_the_server_understands_is_found_out_or_configured(api: str, owner: str, field: str) -> None:
    models = listed("org/model", owned_by=owner, max_model_len=4096)
    async with remote_server(models) as server, opened(harness(server.port, api=api)) as model:
        assert model.info().limit == ModelLimit(context=4096, output=4096)
        await said(model)
        body = server.body(CHATS)
        assert body[field] == 9
        assert {"max_tokens", "max_completion_tokens"} & body.keys() == {field}


async def test_what_such_a_server_does_not_do_is_refused_here() -> None:
    async with remote_server() as server, opened(harness(server.port)) as model:
        with pytest.raises(UnsupportedCapability):
            await said(model, Detokenize(model_id="org/model", tokens=(1,)))
        assert "POST" not in "".join(server.paths)


async def test_a_model_that_is_not_loaded_can_do_what_the_configuration_says() -> None:
    it = harness(9, models={"org/model": RemoteModel(capabilities=("embeddings",)), "org/other": RemoteModel()})
    assert await it.known_capabilities("org/model") == ("embeddings",)
    assert await it.known_capabilities("org/other") is None
    assert await it.known_capabilities("org/unknown") is None


@pytest.mark.parametrize(
    "keys", [{"quant": "Q4_K_M"}, {"devices": (0,)}, {"tensor_parallel": 2}], ids=lambda keys: next(iter(keys))
)
async def test_what_another_host_decides_cannot_be_asked_for(keys: dict[str, Any]) -> None:
    spec = ModelSpec(model_id="org/model", harness="gpu2", **keys)
    assert next(iter(keys)) in (await failure(harness(9), spec)).message


# -------------------------------------------------------------------------------------------- a load that does not work


@pytest.mark.parametrize(
    ("models", "error", "words"),
    [
        (listed("org/one", "org/two"), LoadFailed, "has no model 'org/model'; it has org/one, org/two"),
        (listed(), LoadFailed, "it has none"),
        (answer(200, "<html>", kind="text/html"), LoadFailed, "no API like OpenAI's"),
        (answer(200, "{}"), LoadFailed, "no API like OpenAI's"),
        (answer(200, '{"data":3}'), LoadFailed, "no API like OpenAI's"),
        (answer(302, "", headers="location: http://127.0.0.1:9/\r\n"), LoadFailed, "elsewhere (302), which is not"),
        (answer(401, '{"error":{"message":"' + KEY + '"}}'), LoadFailed, "did not accept this host's key (401)"),
        (answer(403, ""), LoadFailed, "did not accept this host's key (403)"),
        (answer(404, ""), LoadFailed, "does not know"),
        (answer(429, ""), SourceUnavailable, "answers 429"),
        (answer(500, ""), SourceUnavailable, "answers 500"),
        (answer(503, ""), SourceUnavailable, "answers 503"),
        (answer(200, " " * (5 << 20)), SourceUnavailable, "longer than"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", SourceUnavailable, "HTTP"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{", SourceUnavailable, "cannot be reached"),
    ],
)
async def test_a_server_that_has_not_the_model_says_why(
    models: bytes, error: type[NeuronError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with remote_server(models) as server:
        caught = await failure(harness(server.port, api_key_env="GPU2_KEY", environ={"GPU2_KEY": KEY}))
        assert isinstance(caught, error)
        assert words in caught.message
        assert f"127.0.0.1:{server.port}" in caught.message
        assert KEY not in caught.message + caplog.text
        assert set(server.paths) <= {"GET /v1/models", "GET /v1/models/org/model"}


async def test_a_model_that_is_still_being_loaded_there_is_worth_another_try() -> None:
    loading = {"/v1/models/org/model": answer(503, '{"error":{"code":"model_loading"}}')}
    async with remote_server([], answers=loading) as server:
        caught = await failure(harness(server.port))
        assert isinstance(caught, SourceUnavailable)
        assert "still being loaded" in caught.message


async def test_a_name_with_strange_characters_does_not_become_another_path() -> None:
    models = {"org/model": RemoteModel(model_name="a b/../?c#d\u00e9")}
    async with remote_server([]) as server:
        assert "has no model" in (await failure(harness(server.port, models=models))).message
        assert server.paths[-1] == "GET /v1/models/a%20b/../%3Fc%23d%C3%A9"


async def test_a_server_that_is_away_is_worth_another_try() -> None:
    async with remote_server() as server:
        server.kill()
    caught = await failure(harness(server.port))
    assert isinstance(caught, SourceUnavailable)
    assert "cannot be reached: no connection: Connection refused" in caught.message


async def test_a_server_that_is_silent_does_not_hold_a_load() -> None:
    async def waits(stream: ByteStream, _request: bytes) -> None:
        await stream.receive()

    async with remote_server(waits) as server:
        caught = await failure(harness(server.port, silence_timeout_secs=0.1))
        assert isinstance(caught, SourceUnavailable)
        assert "no answer for 0.1 s" in caught.message


# ---------------------------------------------------------------------------------------------------------- the key


async def test_the_key_comes_from_a_variable_or_a_file_and_is_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    async with remote_server() as server:
        of_variable = harness(server.port, api_key_env="GPU2_KEY", environ={"GPU2_KEY": KEY})
        for it in (of_variable, harness(server.port, api_key_file=file)):
            async with opened(it) as model:
                await said(model)
                shown = f"{it!r} {model!r} {model.info()} {model.load()} {model._supervisor.latest.client!r}"
            for path in ("/v1/models", CHATS):
                assert f"authorization: Bearer {KEY}".encode() in server.last(path)
            assert KEY not in shown + caplog.text


async def test_without_a_key_none_is_sent() -> None:
    async with remote_server() as server, opened(harness(server.port, environ={"GPU2_KEY": KEY})) as model:
        await said(model)
        assert b"authorization" not in b"".join(server.requests).lower()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "the variable GPU2_KEY has no key for the harness gpu2"),
        ({"GPU2_KEY": " \n"}, "the variable GPU2_KEY has no key"),
        ({"GPU2_KEY": "sk-sesame\nx-evil: 1"}, "cannot be sent"),
        ({"GPU2_KEY": "sk-sesam\u00e9"}, "cannot be sent"),
        ({"GPU2_KEY": "sk-sesame" * 1000}, "cannot be sent"),
    ],
)
async def test_a_key_that_is_none_ends_the_load_before_anything_is_sent(environ: dict[str, str], words: str) -> None:
    async with remote_server() as server:
        caught = await failure(harness(server.port, api_key_env="GPU2_KEY", environ=environ))
        assert words in caught.message
        assert "sesam" not in caught.message
        assert server.requests == []


async def test_a_file_of_a_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    caught = await failure(harness(9, api_key_file=tmp_path / "key"))
    assert f"in {tmp_path / 'key'} cannot be read: No such file or directory" in caught.message


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9", True),
        ("http://localhost/v1", True),
        ("http://[::1]:1", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example.org", False),
    ],
)
def test_a_key_that_leaves_the_machine_without_encryption_is_warned_of(url: str, is_loopback: bool) -> None:  # noqa: FBT001 - a case
    assert _is_loopback(url) is is_loopback


# ---------------------------------------------------------------------------------------------------------------- TLS


async def test_a_server_with_a_certificate_of_a_private_authority_is_believed_if_the_entry_has_it(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    async with remote_server(tls=authority.server()) as server:
        async with opened(harness(server.port, scheme="https", ca_file=authority.ca)) as model:
            assert await said(model) == "Hello"
        caught = await failure(harness(server.port, scheme="https"))
        assert isinstance(caught, SourceUnavailable)
        assert "the server's certificate is not believed" in caught.message
        assert len(server.requests) == 2, "nothing was sent to a server that is not believed"


async def test_a_certificate_of_another_host_is_not_believed(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    other = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued = authority._ca.issue_cert("gpu3.example.org")
    issued.configure_cert(other)
    async with remote_server(tls=other) as server:
        caught = await failure(harness(server.port, scheme="https", ca_file=authority.ca))
        assert "IP address mismatch" in caught.message
        assert server.requests == []


async def test_a_file_without_authorities_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    caught = await failure(harness(9, scheme="https", ca_file=file))
    assert isinstance(caught, LoadFailed)
    assert f"the authorities of the harness gpu2 in {file} cannot be read" in caught.message


# ------------------------------------------------------------------------------------------- what the server says later


async def test_a_server_that_is_busy_is_a_refusal_with_its_own_time() -> None:
    busy = answer(429, '{"error":{"code":"rate_limit_exceeded"}}', headers="retry-after: 11\r\n")
    async with remote_server(chat=busy) as server, opened(harness(server.port)) as model:
        with pytest.raises(Overloaded) as caught:
            await said(model)
        assert (caught.value.retry_after_s, caught.value.reason) == (11, OverloadReason.UPSTREAM)
        assert len([path for path in server.paths if path.startswith("POST")]) == 1
        assert model.info().status is ModelStatus.LOADED


async def test_a_neuron_that_loads_its_model_again_is_asked_again_what_it_is() -> None:
    def models(created: int, context: int) -> dict[str, bytes]:
        limit = {"context": context, "output": context}
        facts = [{"id": "org/model", "capabilities": ["text"], "limit": limit}]
        return {
            "/v1/models": listed("org/model", owned_by="neuron", created=created, max_model_len=context),
            "/models": answer(200, json.dumps(facts)),
        }

    async with remote_server(answers=models(1, 512)) as server, opened(harness(server.port, health=OFTEN)) as model:
        assert model.info().limit == ModelLimit(context=512, output=512)
        server.answers |= models(2, 1024)
        while model.info().limit != ModelLimit(context=1024, output=1024):  # noqa: ASYNC110 - nobody tells a test
            await anyio.sleep(0.01)
        assert server.paths.count("GET /models") == 2
        assert model.load().engine_restarts == 0


async def test_an_unload_tells_the_server_nothing() -> None:
    async with remote_server() as server:
        async with opened(harness(server.port)) as model:
            await said(model)
            before = list(server.paths)
        assert server.paths == before == ["GET /v1/models", f"POST {CHATS}"]


# ----------------------------------------------------------------------------------------------------- when it is lost


async def serve_again(server: RemoteServer) -> None:
    await server.serve()


async def test_a_server_that_was_away_is_found_again_without_anybody_doing_something() -> None:
    async with remote_server() as server, opened(harness(server.port, health=OFTEN)) as model:
        assert await said(model) == "Hello"
        server.kill()
        await until(model, ModelStatus.RECOVERING)
        with pytest.raises(Overloaded) as caught:
            await said(model)
        assert caught.value.reason is OverloadReason.ENGINE_LOST
        assert "Connection refused" in model.load().last_engine_death
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_again, server)
            await until(model, ModelStatus.LOADED)
            assert await said(model) == "Hello"
            assert (model.load().engine_restarts, model.load().in_flight) == (1, 0)
            tasks.cancel_scope.cancel()


async def test_a_reply_that_had_begun_is_lost_with_its_server_and_one_that_had_not_is_made_by_the_next_life() -> None:
    came = anyio.Event()

    async def begins(stream: ByteStream, request: bytes) -> None:
        if b"begin" in request:
            await stream.send(STREAM + f"{len(BEGUN):x}\r\n".encode() + BEGUN + b"\r\n")
        else:
            came.set()
        await stream.receive()

    begin = Chat(model_id="org/model", messages=({"role": "user", "content": "begin"},))
    async with remote_server(chat=begins) as server, opened(harness(server.port, health=OFTEN)) as model:
        retried: list[str] = []

        async def ask() -> None:
            async with model.run(CHAT) as reply:
                retried.extend([event.text async for event in reply if isinstance(event, TextDelta)])
                assert reply.retried

        async with anyio.create_task_group() as tasks, model.run(begin) as reply:
            events = aiter(reply)
            await anext(events)
            assert await anext(events) == TextDelta("Hello")
            tasks.start_soon(ask)
            await came.wait()
            server.kill()
            with pytest.raises(EngineDead, match="is lost: no connection"):
                await anext(events)
            server.answers[CHATS] = sse(HELLO, END)
            tasks.start_soon(serve_again, server)
            while not retried:  # noqa: ASYNC110 - nobody tells a test
                await anyio.sleep(0.01)
            server.kill()
        assert retried == ["Hello"]
        assert len([path for path in server.paths if path.startswith("POST")]) == 3


async def test_an_answer_without_a_length_that_ends_too_early_is_one_of_a_lost_server() -> None:
    async def begins(stream: ByteStream, _request: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + BEGUN)
        server.kill()

    async with remote_server(chat=begins) as server, opened(harness(server.port, health=OFTEN)) as model:
        with pytest.raises(EngineDead, match="is lost: no connection"):
            await said(model)


async def test_a_key_that_was_exchanged_is_read_again_when_the_old_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("old-secret")
    right = "old-secret"

    async def asks_for_the_key(stream: ByteStream, request: bytes) -> None:
        good = f"Bearer {right}".encode() in request
        is_list = request.startswith(b"GET")
        if not good:
            await stream.send(answer(401, "{}"))
        else:
            await stream.send(listed("org/model") if is_list else sse(HELLO, END))

    seldom = Health(interval_secs=600)
    async with remote_server(asks_for_the_key, chat=asks_for_the_key) as server:  # noqa: SIM117 - too long for a line
        async with opened(harness(server.port, health=seldom, api_key_file=file)) as model:
            assert await said(model) == "Hello"
            right = "new-secret"
            with pytest.raises(UpstreamRefused, match="did not accept this host's key"):
                await said(model)  # which makes us look
            await until(model, ModelStatus.RECOVERING)
            file.write_text("new-secret")
            await until(model, ModelStatus.LOADED)
            assert await said(model) == "Hello"


async def test_a_request_is_not_suspected_because_its_server_unloads_the_model_again_and_again() -> None:
    came: list[bytes] = []

    async def unloads(stream: ByteStream, request: bytes) -> None:
        came.append(request)
        if len(came) == 3:
            await stream.send(sse(HELLO, END))
            return
        server.answers["/v1/models"] = listed()
        await stream.receive()

    async with remote_server(chat=unloads) as server, opened(harness(server.port, health=OFTEN)) as model:

        async def load_again() -> None:
            while True:
                await until(model, ModelStatus.RECOVERING)
                server.answers["/v1/models"] = listed("org/model")
                await until(model, ModelStatus.LOADED)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load_again)
            assert await said(model) == "Hello"
            tasks.cancel_scope.cancel()
        assert (len(came), model.load().engine_restarts) == (3, 2)


async def test_a_server_that_has_the_model_no_more_is_given_up_in_the_end() -> None:
    async with remote_server() as server, opened(harness(server.port, health=OFTEN, most_deaths=3)) as model:
        server.answers["/v1/models"] = listed("org/another")
        reason = await model.wait_lost()
        assert "has no model 'org/model'; it has org/another" in reason
        with pytest.raises(Overloaded):
            await said(model)


# ---------------------------------------------------------------------- a load that names no harness


async def test_a_load_that_names_no_harness_goes_to_the_host_that_has_the_model() -> None:
    spec = ModelSpec(model_id="org/model")
    async with remote_server(["org/other"]) as first, remote_server() as second:
        away, one, two = harness(9), harness(first.port), harness(second.port)
        assert await HarnessByFormat([one, two]).choose(spec) is two
        assert await HarnessByFormat([away, one, two]).choose(spec) is two
        with pytest.raises(SourceUnavailable, match="Connection refused"):
            await HarnessByFormat([away, one]).choose(spec)
        with pytest.raises(LoadFailed, match="no harness of this host takes"):
            await HarnessByFormat([one]).choose(spec)
        scripted = ScriptedHarness()
        assert await HarnessByFormat([one, scripted]).choose(spec) is scripted


async def test_a_model_that_the_entry_names_is_taken_without_a_question() -> None:
    it = harness(9, models={"org/model": RemoteModel()})
    assert await it.takes(ModelSpec(model_id="org/model"))
