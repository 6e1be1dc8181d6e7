"""One daemon with two real models, used as clients and the gateway use it."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.wire_shapes import read_discovery, read_health, read_models, read_version
from tests.patience import PATIENCE_S
from tests.system.daemon import MODELS, Daemon, chat, eventually, running_daemon, stream_payloads

pytestmark = [pytest.mark.system, pytest.mark.model]

DEFAULTS = """
default_models = [
  { model_id = "test/one", harness = "llamacpp" },
  { model_id = "test/two", harness = "candle" },
]
"""
CHAT = "/v1/chat/completions"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), DEFAULTS + MODELS) as daemon:
        daemon.wait_ready()
        yield daemon


def test_the_first_completed_id_is_a_model_that_answers(daemon: Daemon) -> None:
    activation = daemon.health()["activation"]
    assert activation["completed"] == ["test/one", "test/two"]
    assert activation["failed"] == []
    reply = daemon.client.post(CHAT, json=chat(activation["completed"][0]))
    assert reply.status_code == httpx.codes.OK
    assert reply.json()["choices"][0]["message"]["content"]


def test_the_control_plane_is_what_the_gateway_can_parse(daemon: Daemon) -> None:
    read_version(daemon.client.get("/version").content)
    assert read_discovery(daemon.client.get("/discovery").content).harnesses == ["llamacpp"]
    read_health(daemon.client.get("/health").content)
    models = read_models(daemon.client.get("/models").content)
    assert [model.id for model in models] == ["test/one", "test/two"]
    assert {model.status for model in models} == {"loaded"}


def test_the_endpoint_of_a_model_is_this_daemon_as_the_gateway_rewrites_it(daemon: Daemon) -> None:
    for spelling in ("test%2Fone", "test/one", "huggingface%3Atest%2Fone"):
        reply = daemon.client.get(f"/models/{spelling}/endpoint")
        assert reply.json() == {"url": f"http://localhost:{daemon.port}"}


def test_capabilities_are_known_of_what_is_on_disk_and_unknown_of_what_is_not(daemon: Daemon) -> None:
    assert daemon.client.get("/models/test%2Fone/capabilities").json() == {"capabilities": ["text"]}
    assert daemon.client.get("/models/test%2Fnone/capabilities").status_code == httpx.codes.NOT_FOUND


def test_the_bytes_of_a_stream_have_no_carriage_return_and_end_with_usage_and_done(daemon: Daemon) -> None:
    body = daemon.client.post(CHAT, json=chat("test/one", stream=True)).content
    assert b"\r" not in body
    frames = body.split(b"\n\n")
    assert frames[-2:] == [b"data: [DONE]", b""]
    last = json.loads(frames[-3].removeprefix(b"data: "))
    assert last["choices"][0]["finish_reason"] in {"stop", "length"}
    texts = [frame for frame in frames if b'"content":' in frame and b'"role":' not in frame]
    assert last["usage"]["completion_tokens"] >= len(texts) > 0


def metrics_of(daemon: Daemon, model: str) -> dict[str, float]:
    """The values of the series of the model, and of those of the host, by name."""
    text = daemon.client.get("/metrics").text
    samples = [sample for metric in text_string_to_metric_families(text) for sample in metric.samples]
    return {sample.name: sample.value for sample in samples if sample.labels.get("model", model) == model}


def test_a_stream_is_in_the_metrics_with_every_time_that_is_measured(daemon: Daemon) -> None:
    before = metrics_of(daemon, "test/two")
    tokens = daemon.client.post(CHAT, json=chat("test/two")).json()["usage"]["completion_tokens"]
    daemon.client.post(CHAT, json=chat("test/two", stream=True))

    def told_by_the_engine() -> dict[str, float]:
        found = metrics_of(daemon, "test/two")
        name = "neuron_inter_token_seconds_count"
        gaps = found.get(name, 0) - before.get(name, 0)
        return found if gaps == 2 * (tokens - 1) else {}

    now = eventually(told_by_the_engine)
    more = {name: value - before.get(name, 0) for name, value in now.items()}
    assert more["neuron_completion_tokens_total"] == 2 * tokens
    assert more["neuron_first_token_seconds_count"] == 1
    for measured in ("request_queue", "request_prefill", "request_decode", "request", "request_token"):
        assert more[f"neuron_{measured}_seconds_count"] == 2, measured
    assert now["neuron_kv_cells"] > now["neuron_kv_cells_held"] > now["neuron_kv_cells_live"] == 0
    for name in ("event_loop_lag_seconds_count", "load_stage_seconds_count", "http_requests_total"):
        assert now[f"neuron_{name}"] > 0, name


def test_the_same_greedy_chat_gives_the_same_text_streamed_and_whole(daemon: Daemon) -> None:
    whole = daemon.client.post(CHAT, json=chat("test/one", max_tokens=16)).json()["choices"][0]["message"]["content"]
    with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=16)) as reply:
        *chunks, _done = stream_payloads(reply.iter_lines())
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole


def test_the_official_client_reads_whole_and_streamed_replies(daemon: Daemon) -> None:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["test/one", "test/two"]
        whole = client.chat.completions.create(model="test/one", messages=HELLO, max_tokens=8)
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        chunks = list(client.chat.completions.create(model="test/one", messages=HELLO, max_tokens=8, stream=True))
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens >= 1
        assert chunks[-1].choices[0].finish_reason in {"stop", "length"}
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="test/none", messages=HELLO)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as too_long:
            client.chat.completions.create(model="test/one", messages=[{"role": "user", "content": "word " * 2000}])
        assert too_long.value.code == "context_length_exceeded"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_official_async_client_reads_whole_and_streamed_replies(daemon: Daemon) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(model="test/one", messages=HELLO, max_tokens=8)
        assert whole.choices[0].message.content
        stream = await client.chat.completions.create(model="test/one", messages=HELLO, max_tokens=8, stream=True)
        text = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        assert "".join(text)


def test_eight_chats_at_once_on_four_seats_are_all_answered(daemon: Daemon) -> None:
    def ask(number: int) -> int:
        body = chat("test/two", stream=number % 2 == 0, content=f"Count to {number}.")
        reply = httpx.post(f"{daemon.url}{CHAT}", json=body, timeout=PATIENCE_S, trust_env=False)
        return len(reply.content) if reply.status_code == httpx.codes.OK else 0

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
    assert idle(daemon)


def test_a_client_that_hangs_up_in_mid_stream_frees_its_seat(daemon: Daemon) -> None:
    with daemon.client.stream("POST", CHAT, json=chat("test/one", stream=True, max_tokens=900)) as reply:
        chunks = reply.iter_bytes()
        next(chunks)
        assert not idle(daemon)
    eventually(lambda: idle(daemon))


def test_a_client_that_resets_its_connection_before_the_answer_frees_its_seat(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(raw_chat(max_tokens=900))
        eventually(lambda: not idle(daemon))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    eventually(lambda: idle(daemon))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_sends_ahead_and_hangs_up_frees_its_seat(daemon: Daemon, stream: bool) -> None:  # noqa: FBT001
    # The log is written in the background, in order: once this line is there, those of earlier tests are.
    marker = f"test/marker-{stream}"
    daemon.client.post(CHAT, json=chat(marker))
    eventually(lambda: marker in daemon.log)
    given_up = daemon.log.count("reply ended early")
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(raw_chat(stream=stream, max_tokens=900) + b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        eventually(lambda: not idle(daemon))
    eventually(lambda: idle(daemon))
    eventually(lambda: daemon.log.count("reply ended early") == given_up + 1)


def test_what_is_sent_ahead_of_an_answer_closes_the_connection_behind_that_answer(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S) as connection:
        connection.sendall(2 * raw_chat(max_tokens=2))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b'"finish_reason"' in answer


def test_a_request_head_without_an_end_is_cut_off(daemon: Daemon) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx: ")
        with suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"a" * 65536)
            assert connection.recv(4096).startswith(b"HTTP/1.1 400")  # unless the reset was faster


def test_large_bodies_and_heads_below_the_bound_are_taken_on_one_connection(daemon: Daemon) -> None:
    for _ in range(3):
        reply = daemon.client.post(
            CHAT, json=chat("test/one", content="word " * 50_000), headers={"x-padding": "a" * 50_000}
        )
        assert reply.json()["error"]["code"] == "context_length_exceeded"


def raw_chat(*, stream: bool = False, max_tokens: int) -> bytes:
    body = json.dumps(chat("test/one", stream=stream, max_tokens=max_tokens)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def idle(daemon: Daemon) -> bool:
    return all(model["in_flight"] == model["queue_depth"] == 0 for model in daemon.health()["models"])


def test_one_connection_serves_many_requests_refusals_included(daemon: Daemon) -> None:
    refused = (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{{"
    )
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection, connection.makefile("rb") as answers:
        for request, status in (
            (b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", b"200"),
            (refused.encode(), b"400"),
            (b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n", b"404"),
            (b"GET /models HTTP/1.1\r\nhost: localhost\r\n\r\n", b"200"),
        ):
            connection.sendall(request)
            assert answers.readline().split()[1] == status
            length = 0
            while (line := answers.readline()) != b"\r\n":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            assert len(answers.read(length)) == length


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    ],
    ids=["TLS", "version", "newlines", "chunk", "length"],
)
def test_bytes_that_are_not_http_do_no_harm(daemon: Daemon, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(garbage)
    assert daemon.health()["activation"]["state"] == "ready"


def test_no_prompt_and_no_reply_is_in_the_log(daemon: Daemon) -> None:
    text = daemon.client.post(CHAT, json=chat("test/one", content="My secret is xyzzy-4711.")).json()
    assert "xyzzy-4711" not in daemon.log
    assert text["choices"][0]["message"]["content"] not in daemon.log


def test_a_model_can_be_unloaded_and_loaded_again_by_the_gateway(daemon: Daemon) -> None:
    engines = daemon.engine_pids()
    assert daemon.client.post("/models/unload", json={"model_id": "test/two"}).json() == {"status": "unloaded"}
    assert daemon.engine_pids() == engines[:1]
    assert daemon.client.post(CHAT, json=chat("test/two")).status_code == httpx.codes.NOT_FOUND
    spec: dict[str, object] = {
        "model_id": "test/two",
        "harness": "llamacpp",
        "quant": None,
        "tensor_parallel": None,
        "devices": [],
    }
    with ThreadPoolExecutor(2) as threads:
        post = lambda _: httpx.post(f"{daemon.url}/models/load", json=spec, timeout=PATIENCE_S, trust_env=False)  # noqa: E731
        replies = sorted(threads.map(post, range(2)), key=lambda reply: reply.status_code)
    assert [reply.status_code for reply in replies] == [200, 400]
    assert "already loaded" in replies[1].json()["error"]
    assert daemon.client.post(CHAT, json=chat("test/two")).status_code == httpx.codes.OK
