import json
import logging
import re
from typing import Any, Self

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib import ChatRequest, EngineDead, ReasoningDelta, TextDelta, ToolCall, __version__
from neuron_lib.errors import EngineFailed
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Chat, EventBeforeEnd, Principal, Usage
from neuron_lib.wire.openai_chat_reply import ChatStreamEncoder
from neuron_service.answers import SILENCE_LIMIT_S, StreamedAnswer
from neuron_service.asgi import DIRECT_WRITE
from neuron_service.http.limits import IDLE_CONNECTION_LIMIT_S
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.log_lines import said
from tests.fakes.scripted_host import chat_body, scripted_host

SSE_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}

pytestmark = pytest.mark.anyio

A = "org/a"
CHAT = "/v1/chat/completions"
ENCODER = ChatStreamEncoder(id="chatcmpl-1", created=7, model=A)


def masked(body: bytes) -> str:
    """The body with what differs every time replaced."""
    text = re.sub(r'"id":"chatcmpl-[0-9a-f]{24}"', '"id":"ID"', body.decode())
    return re.sub(r'"created":\d{10}\b', '"created":0', text)


def events(body: bytes) -> list[Any]:
    """The payloads of a stream, comments left out; what is no JSON stays text."""
    frames = body.decode().split("\n\n")
    assert frames.pop() == ""
    payloads = [frame.removeprefix("data: ") for frame in frames if frame != ":"]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


# -------------------------------------------------------------------------------------------------------- the answers


async def test_a_whole_reply_has_exactly_openai_s_shape() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body(A))
    assert reply.status == 200
    assert reply.headers == {"content-type": "application/json", "content-length": str(len(reply.body))}
    assert masked(reply.body) == (
        '{"id":"ID","object":"chat.completion","created":0,"model":"org/a",'
        f'"system_fingerprint":"neuron-{__version__}","choices":[{{"index":0,"message":'
        '{"role":"assistant","content":"Hello, world!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,'
        '"completion_tokens":4,"total_tokens":11,"prompt_tokens_details":{"cached_tokens":0},'
        '"helexa_timing":{"prefill_ms":0,"decode_ms":0,"prefill_tokens":7}},'
        '"timings":{"cache_n":0,"prompt_n":7,"prompt_ms":0.0,"prompt_per_token_ms":0.0,"prompt_per_second":0.0,'
        '"predicted_n":4,"predicted_ms":0.0,"predicted_per_token_ms":0.0,"predicted_per_second":0.0}}'
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_with_a_model_for_embeddings_is_a_422_that_names_its_use(*, stream: bool) -> None:
    async with scripted_host({A: ScriptedModel(capabilities=("embeddings",))}, resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body(A, stream=stream))
    assert reply.status == 422
    assert reply.json()["error"] == {
        "message": "model 'org/a' cannot chat: its only use is embeddings",
        "type": "invalid_request_error",
        "code": "wrong_modality",
        "param": None,
        "model_id": "org/a",
        "suggestion": "choose a model whose capabilities include text",
    }


async def test_a_stream_is_role_then_text_then_finish_with_usage_then_done_with_lf_alone() -> None:
    async with scripted_host({A: ScriptedModel(reply=("Hi", " é"))}, resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body(A, stream=True))
    assert reply.status == 200
    assert reply.headers == SSE_HEADERS
    chunk = (
        'data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"org/a",'
        f'"system_fingerprint":"neuron-{__version__}","choices":'
    )
    assert masked(reply.body) == (
        chunk + '[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
        + chunk + '[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n'
        + chunk + '[{"index":0,"delta":{"content":" é"},"finish_reason":null}]}\n\n'
        + chunk + '[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2,'
        '"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0},"helexa_timing":'
        '{"prefill_ms":0,"decode_ms":0,"prefill_tokens":7}},'
        '"timings":{"cache_n":0,"prompt_n":7,"prompt_ms":0.0,"prompt_per_token_ms":0.0,"prompt_per_second":0.0,'
        '"predicted_n":2,"predicted_ms":0.0,"predicted_per_token_ms":0.0,"predicted_per_second":0.0}}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip
    assert b"\r" not in reply.body


async def test_all_chunks_of_a_stream_carry_one_id_and_another_stream_has_another() -> None:
    async with scripted_host(resident=[A]) as host:
        first = events((await host.client.post(CHAT, chat_body(A, stream=True))).body)
        second = events((await host.client.post(CHAT, chat_body(A, stream=True))).body)
    ids = [{chunk["id"] for chunk in stream if chunk != "[DONE]"} for stream in (first, second)]
    assert [len(found) for found in ids] == [1, 1]
    assert ids[0] != ids[1]


async def test_reasoning_and_tool_calls_have_deltas_of_their_own_in_a_stream() -> None:
    call = ToolCall(index=0, id="call_ab_0", name="add", arguments='{"x":1}')
    script = ScriptedModel(reply=(ReasoningDelta("hmm"), "so", call))
    async with scripted_host({A: script}, resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body(A, stream=True))
    assert [chunk["choices"][0]["delta"] for chunk in events(reply.body)[:-1]] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hmm"},
        {"content": "so"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_ab_0",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"x":1}'},
                }
            ]
        },
        {},
    ]


async def test_the_role_is_sent_before_the_model_has_said_anything() -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with (
        scripted_host({A: script}, resident=[A]) as host,
        host.client.open("POST", CHAT, chat_body(A, stream=True)) as exchange,
    ):
        first = await exchange.chunk()
        assert first is not None
        assert b'"delta":{"role":"assistant","content":""}' in first


async def test_silence_is_filled_with_comments_and_loses_nothing_of_the_reply() -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A]) as host:
        request = ChatRequest(model_id=A, messages=({"role": "user", "content": "hi"},))
        stream = StreamedAnswer(host.registry.chat(request), ENCODER, silence_limit_s=0.01)
        async with AsgiClient(stream).open("POST", CHAT) as exchange:
            await exchange.chunk()
            assert [await exchange.chunk() for _ in range(3)] == [b":\n\n"] * 3
            assert script.may_speak is not None
            script.may_speak.set()
            deltas = [event["choices"][0]["delta"] for event in events(await exchange.rest())[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello, world!"


class DirectServer:
    """A server that can write directly. After each `room` direct writes the client has read too little."""

    def __init__(self, *, room: int) -> None:
        self.ways: list[str] = []
        self.body = b""
        self._room = room

    def write(self, piece: bytes) -> bool:
        self.ways.append("write")
        self.body += piece
        return self.ways.count("write") % self._room > 0

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.ways.append("send")
            self.body += message["body"]

    async def serve(self, stream: StreamedAnswer) -> None:
        scope = {"method": "POST", "path": CHAT, "headers": [], "extensions": {DIRECT_WRITE: {"write": self.write}}}
        await stream(scope, anyio.sleep_forever, self.send)


async def test_where_the_server_can_write_directly_events_are_sent_only_when_the_client_reads_too_little() -> None:
    server = DirectServer(room=2)
    async with scripted_host(resident=[A]) as host:
        request = ChatRequest(model_id=A, messages=({"role": "user", "content": "hi"},))
        async with AsgiClient(StreamedAnswer(host.registry.chat(request), ENCODER)).open("POST", CHAT) as exchange:
            all_sent = await exchange.rest()
        await server.serve(StreamedAnswer(host.registry.chat(request), ENCODER))
    role, hello, comma, world, mark, *end = server.ways
    assert (role, hello, comma, world, mark, end) == ("send", "write", "write", "send", "write", ["send", "send"])
    assert server.body == all_sent


async def test_a_bug_in_writing_an_event_directly_is_an_error_event(caplog: pytest.LogCaptureFixture) -> None:
    class BuggyEncoder(ChatStreamEncoder):
        def event(self, event: EventBeforeEnd) -> bytes:
            if isinstance(event, TextDelta):
                raise ZeroDivisionError("one over nothing")
            return super().event(event)

    server = DirectServer(room=2)
    async with scripted_host(resident=[A]) as host:
        request = ChatRequest(model_id=A, messages=({"role": "user", "content": "hi"},))
        await server.serve(StreamedAnswer(host.registry.chat(request), BuggyEncoder(id="1", created=7, model=A)))
    assert events(server.body)[-1]["error"]["message"] == "internal error: ZeroDivisionError: one over nothing"
    assert "bug in a stream" in map(said, caplog.records)


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ({"x-helexa-account-id": "acc", "x-helexa-key-id": "key"}, Principal("acc", "key")),
        ({"x-helexa-account-id": "acc"}, None),
        ({"x-helexa-key-id": "key"}, None),
        ({}, None),
    ],
)
async def test_a_principal_needs_both_headers_of_the_gateway(
    headers: dict[str, str], principal: Principal | None
) -> None:
    async with scripted_host(resident=[A]) as host:
        await host.client.post(CHAT, chat_body(A), headers={"content-type": "application/json", **headers})
        assert host.harness.requests[0].principal == principal


@pytest.mark.parametrize(
    ("value", "wanted"), [("1", True), (" TRUE ", True), ("yes", True), ("0", False), ("", False), ("on", False)]
)
async def test_thinking_is_asked_for_by_header(value: str, *, wanted: bool) -> None:
    async with scripted_host(resident=[A]) as host:
        headers = {"content-type": "application/json", "x-include-thinking": value}
        await host.client.post(CHAT, chat_body(A), headers=headers)
        (request,) = host.harness.requests
        assert isinstance(request, Chat)
        assert request.include_thinking is wanted


# ----------------------------------------------------------------------------------------- refused before the stream


@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_model_is_a_nested_404(*, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body("org/b", stream=stream))
    assert reply.status == 404
    assert reply.json() == {
        "error": {
            "message": "model 'org/b' is not loaded on this host",
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": None,
            "model_id": "org/b",
        }
    }
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {key: warning.__dict__[key] for key in ("method", "path", "status", "type", "code", "error_model_id")} == {
        "method": "POST",
        "path": CHAT,
        "status": 404,
        "type": "invalid_request_error",
        "code": "model_not_found",
        "error_model_id": "org/b",
    }


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_that_is_too_long_is_a_400_with_the_phrase_clients_look_for(*, stream: bool) -> None:
    async with scripted_host({A: ScriptedModel(prompt_tokens=2000)}, resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body(A, stream=stream))
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["prompt_len"], error["max"]) == (
        400, "context_length_exceeded", 2000, 1024,
    )  # fmt: skip
    assert "maximum context length is 1024 tokens" in error["message"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_line_is_a_503_with_retry_after(*, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1, max_queue_depth=0)
    async with scripted_host({A: script}, resident=[A]) as host:
        async with host.client.open("POST", CHAT, chat_body(A, stream=True)) as running:
            await running.chunk()
            reply = await host.client.post(CHAT, chat_body(A, stream=stream))
        error = reply.json()["error"]
        assert (reply.status, error["type"], error["code"]) == (503, "rate_limit_error", "rate_limit_exceeded")
        assert reply.headers["retry-after"] == "2"
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_host_that_drains_lets_running_replies_end_and_refuses_queued_and_new_ones(*, stream: bool) -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1)
    async with (
        scripted_host({A: script}, resident=[A]) as host,
        host.client.open("POST", CHAT, chat_body(A, stream=True)) as running,
    ):
        await running.chunk()
        async with host.client.open("POST", CHAT, chat_body(A, stream=stream)) as queued:
            await wait_all_tasks_blocked()
            host.registry.close_admission()
            replies = [await queued.reply(), await host.client.post(CHAT, chat_body(A, stream=stream))]
        assert script.may_speak is not None
        script.may_speak.set()
        assert (await running.rest()).endswith(b"data: [DONE]\n\n")
    assert [(reply.status, reply.json()["error"]["code"]) for reply in replies] == [(503, "shutting_down")] * 2
    assert {reply.headers["retry-after"] for reply in replies} == {"15"}


# ------------------------------------------------------------------------------------------------------ lost half-way


async def test_a_reply_lost_in_mid_stream_ends_in_an_error_event_without_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = ScriptedModel(reply=("Hel", EngineDead(A, "killed by SIGSEGV")))
    async with scripted_host({A: script}, resident=[A]) as host:
        body = (await host.client.post(CHAT, chat_body(A, stream=True))).body
    *chunks, end, last = events(body)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
    ]
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert (end["usage"]["prompt_tokens"], end["usage"]["completion_tokens"]) == (7, 1)
    assert last == {
        "error": {
            "message": "the engine of model 'org/a' is gone: killed by SIGSEGV",
            "type": "api_error",
            "code": None,
            "param": None,
            "model_id": A,
        }
    }
    assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.WARNING]


@pytest.mark.parametrize("include_usage", [True, False])
async def test_every_choice_of_a_lost_stream_ends_and_the_usage_is_where_the_client_asked_for_it(
    *, include_usage: bool
) -> None:
    script = ScriptedModel(reply=("Hel", EngineDead(A, "killed by SIGSEGV")))
    options = {"n": 2, "stream_options": {"include_usage": include_usage}}
    async with scripted_host({A: script}, resident=[A]) as host:
        body = (await host.client.post(CHAT, chat_body(A, stream=True) | options)).body
    *_, first, second, last = [event for event in events(body) if event.get("choices") != []]
    assert [(end["choices"][0]["index"], end["choices"][0]["finish_reason"]) for end in (first, second)] == [
        (0, "length"),
        (1, "length"),
    ]
    assert "error" in last
    (bill,) = [event for event in events(body) if "usage" in event]
    assert (bill["usage"]["prompt_tokens"], bill["usage"]["completion_tokens"]) == (7, 2)
    assert (bill["choices"] == []) is include_usage


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
async def test_a_chunk_without_choices_is_sent_only_if_the_client_asked_for_it(options: dict[str, bool] | None) -> None:
    async with scripted_host(resident=[A]) as host:
        body = (await host.client.post(CHAT, chat_body(A, stream=True) | {"stream_options": options})).body
    *chunks, done = events(body)
    assert done == "[DONE]"
    is_asked = options == {"include_usage": True}
    assert [not chunk["choices"] for chunk in chunks] == [False] * (len(chunks) - 1) + [is_asked]
    assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    finish = chunks[-2 if is_asked else -1]
    assert finish["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("parallel", "names"), [(False, ["f"]), (True, ["f", "g"]), (None, ["f", "g"])])
async def test_a_client_that_takes_one_tool_call_at_a_time_gets_one_tool_call(
    *, stream: bool, parallel: bool | None, names: list[str]
) -> None:
    calls = [ToolCall(index=i, id=f"call_{i}", name=name, arguments="{}") for i, name in enumerate("fg")]
    tools = [{"type": "function", "function": {"name": name}} for name in "fg"]
    asked = chat_body(A, stream=stream) | {"tools": tools, "parallel_tool_calls": parallel}
    async with scripted_host({A: ScriptedModel(reply=calls)}, resident=[A]) as host:
        body = (await host.client.post(CHAT, asked)).body
    choices = [event["choices"][0] for event in (events(body)[:-1] if stream else [json.loads(body)])]
    told = [call for choice in choices for call in choice["delta" if stream else "message"].get("tool_calls", ())]
    assert [call["function"]["name"] for call in told] == names


async def test_a_whole_reply_that_is_lost_is_a_500_with_the_full_chain() -> None:
    error = EngineFailed("the step failed")
    error.__cause__ = OSError("device gone")
    async with scripted_host({A: ScriptedModel(reply=("Hel", error))}, resident=[A]) as host:
        reply = await host.client.post(CHAT, chat_body(A))
    assert reply.status == 500
    assert reply.json()["error"] == {
        "message": "the step failed: OSError: device gone",
        "type": "api_error",
        "code": None,
        "param": None,
    }


class BuggyGeneration:
    """A reply with a bug: it raises an unexpected exception when it is entered, or after the first event."""

    retried = False
    usage = Usage(prompt_tokens=5, completion_tokens=0)

    def __init__(self, *, on_entering: bool) -> None:
        self.on_entering = on_entering

    async def __aenter__(self) -> Self:
        if self.on_entering:
            raise ZeroDivisionError("one over nothing")
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextDelta:
        raise ZeroDivisionError("one over nothing")


async def test_a_bug_in_mid_stream_is_an_error_event_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = StreamedAnswer(BuggyGeneration(on_entering=False), ENCODER)
    async with AsgiClient(stream).open("POST", CHAT) as exchange:
        *_, last = events(await exchange.rest())
        await exchange.returned.wait()
        assert exchange.error is None
    assert last["error"]["message"] == "internal error: ZeroDivisionError: one over nothing"
    assert [record.exc_info is not None for record in caplog.records] == [True]


async def test_a_bug_before_the_stream_is_a_500_and_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_host(resident=[A]) as host:
        with monkeypatch.context() as patch:
            patch.setattr(host.registry, "run", lambda _, **_options: BuggyGeneration(on_entering=True))
            reply = await host.client.post(CHAT, chat_body(A, stream=True))
        assert (await host.client.post(CHAT, chat_body(A))).status == 200
    assert reply.status == 500
    assert reply.json()["error"]["message"] == "internal error: ZeroDivisionError: one over nothing"
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    assert record.exc_info


# ------------------------------------------------------------------------------------------------- the client leaves


async def is_idle(host: Any) -> bool:
    (load,) = (await host.client.get("/health")).json()["models"]
    return bool(load["in_flight"] == 0 and load["queue_depth"] == 0)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_while_it_waits_leaves_the_line(*, stream: bool) -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1)
    async with scripted_host({A: script}, resident=[A]) as host:
        async with host.client.open("POST", CHAT, chat_body(A, stream=True)) as running:
            await running.chunk()
            async with host.client.open("POST", CHAT, chat_body(A, stream=stream)) as queued:
                await wait_all_tasks_blocked()
                queued.hang_up()
                await queued.returned.wait()
                assert (queued.status, queued.error) == (0, None)
            (load,) = host.registry.loads()
            assert (load.in_flight, load.queue_depth) == (1, 0)
            assert host.harness.log.count(f"chat {A}") == 1
        assert await is_idle(host)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_before_the_first_token_frees_its_seat(*, stream: bool) -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A]) as host:
        async with host.client.open("POST", CHAT, chat_body(A, stream=stream)) as exchange:
            await wait_all_tasks_blocked()
            assert host.harness.log[-1] == f"chat {A}"
            exchange.hang_up()
            await exchange.returned.wait()
            assert exchange.error is None
        assert host.harness.log[-1] == f"end {A}"
        assert await is_idle(host)


async def test_a_client_that_leaves_in_mid_stream_frees_its_seat() -> None:
    async with scripted_host({A: endless()}, resident=[A]) as host:
        async with host.client.open("POST", CHAT, chat_body(A, stream=True)) as exchange:
            for _ in range(3):
                await exchange.chunk()
            exchange.hang_up()
            await exchange.returned.wait()
            assert exchange.error is None
        assert host.harness.log[-1] == f"end {A}"
        assert await is_idle(host)


def endless() -> ScriptedModel:
    """A model that makes a very long reply without any pause."""
    return ScriptedModel(reply=("word ",) * 100_000)


async def test_a_client_that_stops_reading_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("neuron_service.streaming.SEND_LIMIT_S", 0.01)
    caplog.set_level(logging.INFO)
    async with scripted_host(resident=[A]) as host:
        async with host.client.open("POST", CHAT, chat_body(A, stream=True)) as exchange:
            await exchange.chunk()
            exchange.is_reading = False
            await exchange.returned.wait()
            assert exchange.error is None
        assert host.harness.log[-1] == f"end {A}"
    assert "client stopped reading, its reply was given up" in map(said, caplog.records)


async def test_a_client_that_leaves_before_its_body_is_complete_costs_nothing() -> None:
    async with scripted_host(resident=[A]) as host:
        async with host.client.open("POST", CHAT, b'{"model":', more_body=True) as exchange:
            await wait_all_tasks_blocked()
            exchange.hang_up()
            await exchange.returned.wait()
            assert exchange.error is None
        assert host.harness.requests == []


def test_the_limits_that_other_programs_rely_on() -> None:
    assert SILENCE_LIMIT_S == 1.0, "clients have hung up after little more"
    assert IDLE_CONNECTION_LIMIT_S >= 120, "the gateway keeps idle connections for 90 s"
