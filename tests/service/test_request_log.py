"""Every answer has the id of its request, and every request has exactly one line at its end."""

import logging
import time
from typing import Any

import anyio
import pytest

from neuron_lib import EndedReply, FinishReason, ReplyOutcome, Usage
from neuron_lib.errors import EngineFailed, Overloaded, OverloadReason
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Principal, TextDelta
from neuron_service.exchange import Exchange
from neuron_service.refusals import log_refusal, render
from neuron_service.request_log import RequestLog, end_line
from tests.fakes.asgi_client import AsgiClient, Reply
from tests.fakes.log_lines import said
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host

pytestmark = pytest.mark.anyio

A = "org/a"
CHAT = "/v1/chat/completions"
ID = {"content-type": "application/json", "x-request-id": "mine"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
ENDS = {"reply finished", "reply ended early", "request answered", "request ended without an answer"}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def lines_about(log: pytest.LogCaptureFixture, request_id: str) -> list[logging.LogRecord]:
    """The lines that say how a request ended."""
    mine = [record for record in log.records if vars(record).get("request_id") == request_id]
    return [record for record in mine if said(record) in ENDS or said(record).startswith("request refused")]


async def ask(host: ScriptedHost, method: str, path: str, body: Any = b"", **headers: str) -> Reply:
    return await host.client.request(method, path, body, headers=ID | headers)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", b"", 200),
        ("HEAD", "/healthz", b"", 200),
        ("GET", "/readyz", b"", 200),
        ("GET", "/version", b"", 200),
        ("POST", "/health", b"", 405),
        ("OPTIONS", "/health", b"", 405),
        ("GET", "/models", b"", 200),
        ("GET", "/models/org/b/endpoint", b"", 404),
        ("GET", "/nothing", b"", 404),
        ("GET", "//", b"", 404),
        ("POST", CHAT, b"{", 400),
        ("POST", CHAT, chat_body("org/b"), 404),
        ("POST", CHAT, chat_body(A), 200),
        ("POST", CHAT, chat_body(A, stream=True), 200),
        ("POST", "/v1/messages", b"{", 400),
        ("POST", "/v1/responses", b"{", 400),
        ("POST", "/models/load", b"{", 400),
        ("POST", "/models/load", {"model_id": "org/c", "harness": "scripted"}, 200),
        ("POST", "/models/unload", {"model_id": A}, 200),
    ],
)
async def test_every_answer_has_the_id_of_its_request_and_the_log_one_line(
    method: str, path: str, body: Any, status: int, log: pytest.LogCaptureFixture
) -> None:
    async with scripted_host(resident=[A]) as host:
        host.tracker.mark_ready()
        reply = await ask(host, method, path, body)
        other = await host.client.request(method, path, body)
    assert (reply.status, reply.request_id) == (status, "mine")
    assert len(other.request_id) == 32
    (line,) = lines_about(log, "mine")
    assert vars(line)["method"] == method
    if path != "//":
        assert vars(line)["path"] == path
    assert vars(line).get("status") == status


@pytest.mark.parametrize("stream", [False, True])
async def test_the_line_of_a_reply_has_its_bill(*, stream: bool, log: pytest.LogCaptureFixture) -> None:
    async with scripted_host(resident=[A]) as host:
        headers = {"x-helexa-account-id": "account", "x-helexa-key-id": "key"}
        headers["traceparent"] = f"00-{TRACE}-b7ad6b7169203331-01"
        await host.client.post(CHAT, chat_body(A, stream=stream), headers=ID | headers)
    (line,) = lines_about(log, "mine")
    assert (said(line), line.levelno) == ("reply finished", logging.INFO)
    fields = vars(line)
    assert (fields["model_id"], fields["status"], fields["finish_reason"]) == (A, 200, "stop")
    assert (fields["principal"], fields["trace_id"]) == (Principal("account", "key").pseudonym, TRACE)
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    times = ("queue_ms", "ttft_ms", "prefill_ms", "decode_ms", "total_ms", "duration_ms")
    assert all(isinstance(fields[name], int) for name in (*counts, *times))


async def test_a_refusal_is_the_line_of_its_request(log: pytest.LogCaptureFixture) -> None:
    full = Overloaded("the line is full", reason=OverloadReason.QUEUE_FULL, retry_after_s=3)
    async with scripted_host({A: ScriptedModel(reply=[full])}, resident=[A]) as host:
        await ask(host, "POST", CHAT, chat_body(A), **{"x-helexa-account-id": "a", "x-helexa-key-id": "k"})
    (line,) = lines_about(log, "mine")
    assert line.levelno == logging.WARNING
    assert vars(line)["principal"] == Principal("a", "k").pseudonym
    assert vars(line)["model_id"] == A
    assert isinstance(vars(line)["duration_ms"], int)


def test_a_refusal_says_how_long_its_request_has_waited(log: pytest.LogCaptureFixture) -> None:
    expired = Overloaded("no seat became free", reason=OverloadReason.WAIT_EXPIRED, retry_after_s=3)
    exchange = Exchange(request_id="mine", method="POST", path=CHAT, began_s=time.monotonic() - 30)
    log_refusal(expired, render(expired, CHAT), exchange)
    (line,) = lines_about(log, "mine")
    assert 30_000 <= vars(line)["duration_ms"] < 90_000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_is_lost_is_one_line_with_what_it_cost(
    *, stream: bool, log: pytest.LogCaptureFixture
) -> None:
    script = ScriptedModel(reply=[TextDelta(text="a"), EngineFailed("the context broke")])
    async with scripted_host({A: script}, resident=[A]) as host:
        reply = await ask(host, "POST", CHAT, chat_body(A, stream=stream))
    (line,) = lines_about(log, "mine")
    assert vars(line)["status"] == reply.status == (200 if stream else 500)
    assert vars(line)["outcome"] == "engine_failed"
    assert vars(line)["prompt_tokens"] == 7


async def test_a_client_that_leaves_has_a_line_too(log: pytest.LogCaptureFixture) -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    async with (
        scripted_host({A: script}, resident=[A]) as host,
        host.client.open("POST", CHAT, chat_body(A, stream=True), headers=ID) as exchange,
    ):
        await exchange.chunk()
        exchange.hang_up()
        await exchange.returned.wait()
    (line,) = lines_about(log, "mine")
    assert (said(line), vars(line)["outcome"], vars(line)["status"]) == ("reply ended early", "abandoned", 200)


async def test_a_question_that_is_asked_again_and_again_is_logged_for_debugging_only(
    log: pytest.LogCaptureFixture,
) -> None:
    async with scripted_host(resident=[A]) as host:
        for path in ("/health", "/models", "/v1/models", f"/models/{A}/endpoint"):
            await ask(host, "GET", path)
    assert {line.levelno for line in lines_about(log, "mine")} == {logging.DEBUG}


async def test_all_lines_about_a_request_have_its_id(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_task: object, **_options: object) -> None:
        raise ZeroDivisionError

    async with scripted_host(resident=[A]) as host:
        monkeypatch.setattr(host.registry, "run", stumble)
        await ask(host, "POST", CHAT, chat_body(A))
        await ask(host, "POST", "/models/unload", {"model_id": A})
    mine = [said(record) for record in log.records if vars(record).get("request_id") == "mine"]
    assert mine == ["bug in a route", "request answered", "unloaded model", "request answered"]


async def test_the_task_and_the_account_of_a_reply_have_the_id(log: pytest.LogCaptureFixture) -> None:
    async with scripted_host(resident=[A]) as host:
        await ask(host, "POST", CHAT, chat_body(A))
        (task,) = host.harness.requests
    assert task.request_id == "mine"


async def test_a_request_that_nobody_answers_has_a_line(log: pytest.LogCaptureFixture) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ZeroDivisionError

    async with AsgiClient(RequestLog(app)).open("POST", "/x", headers=ID) as exchange:
        await exchange.returned.wait()
    assert isinstance(exchange.error, ZeroDivisionError)
    (line,) = lines_about(log, "mine")
    assert said(line) == "request ended without an answer"


def ended(**changes: Any) -> EndedReply:
    fields: dict[str, Any] = {
        "model_id": A,
        "outcome": ReplyOutcome.FINISHED,
        "error": None,
        "finish_reasons": (FinishReason.STOP,),
        "usage": Usage(prompt_tokens=3, completion_tokens=4),
        "retried": False,
        "principal": None,
        "queue_s": 0.25,
        "first_event_s": 0.5,
        "total_s": 2.0,
    }
    return EndedReply(**(fields | changes))


def test_times_are_milliseconds_and_what_is_not_known_is_left_out() -> None:
    exchange = Exchange(request_id="r", method="POST", path=CHAT, status=200, ended=ended())
    line = end_line(exchange, took_s=2.5)
    assert line is not None
    _, _, fields = line
    assert (fields["queue_ms"], fields["ttft_ms"], fields["total_ms"], fields["duration_ms"]) == (250, 500, 2000, 2500)
    assert {"principal", "outcome", "retried", "trace_id"}.isdisjoint(fields)
    exchange.ended = ended(first_event_s=None, finish_reasons=(), outcome=ReplyOutcome.ABANDONED)
    line = end_line(exchange, took_s=2.5)
    assert line is not None
    assert {"ttft_ms", "finish_reason"}.isdisjoint(line[2])


def test_a_refused_request_has_no_second_line() -> None:
    assert end_line(Exchange(request_id="r", refusal="prompt_too_long"), took_s=1.0) is None
