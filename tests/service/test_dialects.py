"""A second API needs its own modules and one row of the table. The rest of the service knows no API."""

import logging
from dataclasses import replace
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from neuron_lib import EngineDead, ReasoningDelta
from neuron_lib.errors import ModelNotLoaded, NeuronError
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Chat, Principal
from neuron_lib.wire.dialect import Dialect
from neuron_lib.wire.http_errors import RequestTimeout, UnknownPath
from neuron_service import dialects
from neuron_service.access.hosts import AccessRules
from neuron_service.answers import StreamedAnswer
from neuron_service.app import create_app
from neuron_service.dialects import DIALECTS
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.limits import ConnectionLimits
from neuron_service.http_rules import HttpRules
from neuron_service.late_routes import LateRoutes
from tests.fakes.asgi_client import JSON, AsgiClient, Reply
from tests.fakes.memory_connection import memory_connection
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host
from tests.fakes.toy_dialect import TOY, TOY_KEY, ToyEncoder

pytestmark = pytest.mark.anyio

A = "org/a"
SAY = "/toy/say"
CHAT = "/v1/chat/completions"
HEADERS = JSON | TOY_KEY


@pytest.fixture(autouse=True)
def _second_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialects, "DIALECTS", (*DIALECTS, TOY))


def toy_body(model: str = A, *, bit_by_bit: bool = False) -> dict[str, object]:
    return {"model": model, "say": "hi", "bit_by_bit": bit_by_bit}


async def ask(host: ScriptedHost, body: Any = None, **headers: str) -> Reply:
    return await host.client.post(SAY, body or toy_body(), headers=HEADERS | headers)


# -------------------------------------------------------------------------------------------------------- the answers


async def test_a_stream_has_the_events_of_the_dialect_in_the_order_of_the_reply() -> None:
    script = ScriptedModel(reply=(ReasoningDelta("hm"), "Hi", "\u2028"))
    async with scripted_host({A: script}, resident=[A]) as host:
        reply = await ask(host, toy_body(bit_by_bit=True))
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert reply.body.decode() == (
        "event: hello\ndata: {}\n\n"
        'event: reading\ndata: {"prompt":7}\n\n'
        'event: said\ndata: {"text":"Hi"}\n\n'
        'event: said\ndata: {"text":"\\u2028"}\n\n'
        'event: bye\ndata: {"because":"stop"}\n\n'
    )


async def test_a_whole_answer_is_the_body_of_the_dialect() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await ask(host)
    assert reply.body == b'{"said": "Hello, world!"}'
    assert reply.headers == {"content-type": "application/json", "content-length": str(len(reply.body))}


@pytest.mark.parametrize("bit_by_bit", [False, True])
async def test_a_reply_that_was_begun_again_says_so_in_every_dialect(*, bit_by_bit: bool) -> None:
    async with scripted_host({A: ScriptedModel(retried=True)}, resident=[A]) as host:
        reply = await ask(host, toy_body(bit_by_bit=bit_by_bit))
    assert reply.headers["x-neuron-retried"] == "1"


async def test_the_dialect_decides_what_the_model_is_asked_and_is_told_who_asks() -> None:
    async with scripted_host(resident=[A]) as host:
        await ask(host, **{"x-helexa-account-id": "acc", "x-helexa-key-id": "key"})
        (request,) = host.harness.requests
    assert isinstance(request, Chat)
    assert list(request.messages) == [{"role": "user", "content": "hi"}]
    assert request.principal == Principal("acc", "key")


async def test_silence_is_filled_with_comments_in_every_dialect() -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A]) as host:
        reply = host.registry.chat(dialect_task())
        async with AsgiClient(StreamedAnswer(reply, ToyEncoder(), silence_limit_s=0.01)).open("POST", SAY) as exchange:
            assert [await exchange.chunk() for _ in range(2)] == [
                b"event: hello\ndata: {}\n\n",
                b'event: reading\ndata: {"prompt":7}\n\n',
            ]
            assert [await exchange.chunk() for _ in range(2)] == [b":\n\n"] * 2


def dialect_task() -> Any:
    decode = TOY.load()
    return decode(b'{"model":"org/a","say":"hi"}', headers=HEADERS, principal=None).task


@pytest.mark.parametrize("bit_by_bit", [False, True])
async def test_a_client_that_leaves_frees_its_seat_in_every_dialect(*, bit_by_bit: bool) -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with scripted_host({A: script}, resident=[A]) as host:
        async with host.client.open("POST", SAY, toy_body(bit_by_bit=bit_by_bit), headers=HEADERS) as exchange:
            await wait_all_tasks_blocked()
            assert host.harness.log[-1] == f"chat {A}"
            exchange.hang_up()
            await exchange.returned.wait()
            assert exchange.error is None
        assert host.harness.log[-1] == f"end {A}"


# --------------------------------------------------------------------------------------------------------- the errors


async def test_a_reply_lost_half_way_ends_as_the_dialect_says_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    script = ScriptedModel(reply=("Hel", EngineDead(A, "SIGSEGV")))
    async with scripted_host({A: script}, resident=[A]) as host:
        reply = await ask(host, toy_body(bit_by_bit=True))
    assert reply.body.decode().split("\n\n")[-2:] == [
        'event: oops\ndata: {"oops":"the engine of model \'org/a\' is gone: SIGSEGV","number":500,"tokens":1}',
        "",
    ]
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]


REFUSED: dict[str, tuple[str, str, Any, dict[str, str], int]] = {
    "not JSON": ("POST", SAY, b"{", HEADERS, 400),
    "no key": ("POST", SAY, toy_body(), JSON, 401),
    "unknown model": ("POST", SAY, toy_body("org/b"), HEADERS, 404),
    "unknown path below": ("POST", f"{SAY}/more", b"", HEADERS, 404),
    "slash at the end": ("POST", f"{SAY}/", b"", HEADERS, 404),
    "method": ("GET", SAY, b"", HEADERS, 405),
    "options": ("OPTIONS", SAY, b"", HEADERS, 405),
    "too large": ("POST", SAY, b" " * (3 << 20), HEADERS, 413),
    "content type": ("POST", SAY, toy_body(), HEADERS | {"content-type": "text/plain"}, 415),
    "compressed": ("POST", SAY, toy_body(), HEADERS | {"content-encoding": "gzip"}, 415),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_whatever_refuses_a_request_the_answer_has_the_shape_of_its_path(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    method, path, body, headers, status = REFUSED[case]
    caplog.set_level(logging.INFO, logger="neuron_service")
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.request(method, path, body, headers=headers)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert list(reply.json()) == ["oops", "number"]
    assert reply.json()["number"] == status
    assert reply.headers.get("allow") == ("POST" if status == 405 else None)
    assert [record.__dict__["status"] for record in caplog.records if "status" in record.__dict__] == [status]


async def test_head_of_a_dialect_is_refused_without_a_body() -> None:
    async with scripted_host() as host:
        head = await host.client.request("HEAD", SAY)
    assert (head.status, head.body, head.headers["allow"]) == (405, b"", "POST")


async def test_a_host_that_is_not_allowed_is_refused_in_the_shape_of_the_path() -> None:
    async with scripted_host() as host:
        client = AsgiClient(create_app(host.real, access=AccessRules(takes_any_host=False)))
        reply = await client.request("POST", SAY, toy_body(), headers=HEADERS | {"host": "evil.example"})
    assert (reply.status, reply.json()["number"]) == (403, 403)


async def test_a_dialect_may_have_a_status_of_its_own_and_the_log_has_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = ScriptedModel(may_speak=anyio.Event(), max_in_flight=1, max_queue_depth=0)
    async with (
        scripted_host({A: script}, resident=[A]) as host,
        host.client.open("POST", CHAT, chat_body(A, stream=True)) as running,
    ):
        await running.chunk()
        reply = await ask(host)
    assert (reply.status, reply.json()["number"], reply.headers["retry-after"]) == (529, 529, "2")
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    logged = {key: warning.__dict__[key] for key in ("path", "status", "type", "code")}
    assert logged == {"path": SAY, "status": 529, "type": "too_busy", "code": "busy"}


async def test_a_host_that_stops_refuses_in_the_shape_of_the_path_even_before_its_routes_are_there() -> None:
    async with scripted_host(resident=[A]) as host:
        late = LateRoutes(lambda: create_app(host.real))
        late.close()
        host.registry.close_admission()
        replies = [
            await ask(host),
            await AsgiClient(HttpRules(late)).post(SAY, toy_body(), headers=HEADERS),
        ]
    assert [(reply.status, reply.json()["number"], reply.headers["retry-after"]) for reply in replies] == [
        (503, 503, "15")
    ] * 2


async def test_a_bug_is_a_500_in_the_shape_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(_task: object, **_options: object) -> None:
        raise ZeroDivisionError("one over nothing")

    async with scripted_host(resident=[A]) as host:
        monkeypatch.setattr(host.registry, "run", stumble)
        reply = await ask(host)
    assert (reply.status, reply.json()) == (500, {"oops": "internal error", "number": 500})


SLOW = f"POST {SAY} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n".encode()
BROKEN = f"POST {SAY} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n?".encode()


@pytest.mark.parametrize(
    ("sent", "cap", "status", "number"),
    [
        pytest.param(SLOW, 8, 408, 408, id="a body that does not end"),
        pytest.param(BROKEN, 8, 400, 400, id="a body that is not HTTP"),
        pytest.param(SLOW, 0, 529, 529, id="too many connections"),
        pytest.param(b"\x16\x03\x01", 8, 400, None, id="no path at all"),
    ],
)
def test_what_a_connection_refuses_by_itself_has_the_shape_of_the_path_once_the_path_is_known(
    sent: bytes, cap: int, status: int, number: int | None
) -> None:
    with memory_connection(limits=ConnectionLimits(body_s=30), cap=ConnectionCap(cap, spare=8)) as client:
        client.send(sent)
        client.loop.advance(30)
        reply = client.reply()
    assert (reply.status, reply.body.get("number")) == (status, number)


@pytest.mark.parametrize("path", ["", "/", "/health", "/models/load", "/v1/models", "/toy", "/toy/sayings", CHAT])
@pytest.mark.parametrize("error", [RequestTimeout("late"), ModelNotLoaded(A), NeuronError("bug")])
def test_every_other_path_has_openai_s_shape(path: str, error: NeuronError) -> None:
    assert b'"error":{"message":' in dialects.render(error, path).body


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
def test_a_path_below_that_of_another_dialect_has_the_same_shape_of_errors(dialect: Dialect) -> None:
    above = [other for other in dialects.DIALECTS if dialect.path.startswith(f"{other.path}/")]
    assert [other.error for other in above] == [dialect.error] * len(above)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
def test_a_path_belongs_to_one_dialect(dialect: Dialect) -> None:
    for path in dialect.paths:
        assert [other for other in dialects.DIALECTS if path in other.paths] == [dialect]


def test_a_path_with_the_number_of_a_version_also_does_without() -> None:
    assert replace(TOY, path="/v1/toy/say").paths == ("/v1/toy/say", "/toy/say")
    assert replace(TOY, path="/v1").paths == ("/v1",)
    assert TOY.paths == ("/toy/say",)


@pytest.mark.parametrize("path", ["/v1/toy/say", "/toy/say"])
async def test_a_dialect_answers_and_refuses_at_each_of_its_paths(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(dialects, "DIALECTS", (*DIALECTS, replace(TOY, path="/v1/toy/say")))
    async with scripted_host(resident=[A]) as host:
        said = await host.client.post(path, toy_body(), headers=HEADERS)
        refused = [
            await host.client.post(path, toy_body("org/b"), headers=HEADERS),
            await host.client.post(f"{path}/more", toy_body(), headers=HEADERS),
            await host.client.get(path),
        ]
    assert said.json() == {"said": "Hello, world!"}
    assert [reply.json()["number"] for reply in refused] == [404, 404, 405]


def test_below_two_dialects_the_errors_have_the_shape_of_the_nearer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = replace(TOY, path="/v1/chat/completions/toy")
    monkeypatch.setattr(dialects, "DIALECTS", (inner, *DIALECTS))
    bodies = [dialects.render(UnknownPath(), path).body for path in (CHAT, f"{CHAT}/toy", "/chat/completions/toy/more")]
    assert [b"oops" in body for body in bodies] == [False, True, True]
