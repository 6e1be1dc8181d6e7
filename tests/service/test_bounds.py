"""A refused request costs a few thousand bytes of log and of answer, and the log has no content of it."""

import json
import logging
from typing import Any

import pytest

from neuron_lib.errors import EngineFailed, InvalidGrammar, InvalidRequest, NeuronError, TemplateFailed
from neuron_lib.testing import ScriptedModel
from neuron_lib.types import TextDelta
from neuron_service.log_config import configure_logging
from tests.fakes.scripted_host import CPU_HOST, chat_body, scripted_host

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
LOAD = "/models/load"
UNLOAD = "/models/unload"
A = "org/a"
CANARY = "the-words-of-a-client"
HUGE = f"{CANARY}\u202e" * 60_000
"""A body that contains this text is just small enough to be read."""
MOST_BYTES = 8000


def chat(**changes: Any) -> Any:
    return chat_body(A) | changes


def message(**changes: Any) -> Any:
    return chat(messages=[{"role": "user", "content": "hi"} | changes])


REFUSED: dict[str, tuple[str, str, Any]] = {
    "unload": ("POST", UNLOAD, {"model_id": HUGE}),
    "load, id": ("POST", LOAD, {"model_id": HUGE, "harness": "unknown"}),
    "load, harness": ("POST", LOAD, {"model_id": A, "harness": HUGE}),
    "load, devices": ("POST", LOAD, {"model_id": "o/x", "harness": HUGE, "devices": [1] * 200_000}),
    "load, shape": ("POST", LOAD, {"model_id": {HUGE: HUGE}, "harness": "scripted"}),
    "chat, model": ("POST", CHAT, chat(model=HUGE[:1000])),
    "chat, shape": ("POST", CHAT, chat(max_tokens=HUGE)),
    "chat, message": ("POST", CHAT, chat(messages=[HUGE])),
    "chat, role": ("POST", CHAT, message(role={HUGE: 1})),
    "chat, content": ("POST", CHAT, message(content={"type": HUGE})),
    "chat, image": ("POST", CHAT, message(content=[{"type": "image_url", "image_url": {"url": HUGE}}])),
    "chat, format": ("POST", CHAT, chat(response_format=HUGE)),
    "chat, bias": ("POST", CHAT, chat(logit_bias={HUGE: 1})),
    "no JSON": ("POST", CHAT, HUGE.encode()),
    "path": ("GET", f"/{HUGE}", b""),
    "endpoint": ("GET", f"/models/{HUGE}/endpoint", b""),
    "capabilities": ("GET", f"/models/{HUGE}/capabilities", b""),
    "slashes": ("GET", f"//{HUGE}", b""),
    "method": (HUGE, "/health", b""),
}


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    for handler in logging.getLogger().handlers:
        handler.flush()
    return capsys.readouterr().err


def encodable(text: str) -> str:
    """The text without the character that a path or a method cannot have."""
    return text.replace("\u202e", "-")


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_request_costs_a_few_thousand_bytes_of_log_and_answer(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    method, path, body = REFUSED[case]
    configure_logging("info")
    async with scripted_host(resident=[A]) as host:
        logged(capsys)
        reply = await host.client.request(encodable(method), encodable(path), body)
        log = logged(capsys)
    assert 400 <= reply.status < 500, reply.body[:1000]
    assert len(reply.body) < MOST_BYTES
    assert len(log) < MOST_BYTES
    assert log.count("\n") <= 1
    assert log.removesuffix("\n").isprintable()
    assert reply.body.count(CANARY.encode()) <= 2 * 200 / len(CANARY) + 2


@pytest.mark.parametrize("case", [case for case in REFUSED if case.startswith(("chat, ", "no JSON", "load, shape"))])
async def test_the_log_has_nothing_of_a_refused_body_except_the_id_of_a_model(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    method, path, body = REFUSED[case]
    configure_logging("info")
    async with scripted_host(resident=[A]) as host:
        logged(capsys)
        await host.client.request(method, path, body)
    log = logged(capsys)
    assert "request refused: " in log
    assert (CANARY in log) is (case == "chat, model")


@pytest.mark.parametrize("content_type", [HUGE.replace("\u202e", "-"), "application/json; charset=" + "x" * 60_000])
async def test_a_header_is_quoted_in_200_characters(content_type: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    async with scripted_host(resident=[A]) as host:
        reply = await host.client.post(CHAT, chat(), headers={"content-type": content_type})
    assert reply.status == 415
    assert len(reply.body) < 600
    assert len(logged(capsys)) < 2000


@pytest.mark.parametrize(
    "error",
    [
        TemplateFailed(f"the chat template raised: {HUGE}"),
        InvalidGrammar(f"the regex does not compile: {HUGE}", param="regex"),
        InvalidRequest(HUGE, param=HUGE, schema=HUGE),
    ],
    ids=["template", "grammar", "other"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_message_of_a_template_or_a_grammar_is_sent_to_the_client_and_not_logged(
    error: NeuronError, *, stream: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_request: object, **_options: object) -> Any:
        raise error

    configure_logging("info")
    async with scripted_host(resident=[A]) as host:
        monkeypatch.setattr(host.registry, "run", refuse)
        reply = await host.client.post(CHAT, chat(stream=stream))
    log = logged(capsys)
    assert CANARY in reply.body.decode()
    assert len(reply.body) < MOST_BYTES
    assert (log.count(error.code), log.count(CANARY)) == (2, 0)


async def test_at_debug_the_log_has_the_refusal_in_full_and_still_bounded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_request: object, **_options: object) -> Any:
        raise TemplateFailed(HUGE)

    configure_logging("debug")
    async with scripted_host(resident=[A]) as host:
        monkeypatch.setattr(host.registry, "run", refuse)
        await host.client.post(CHAT, chat())
    log = logged(capsys)
    assert CANARY in log
    assert len(log) < 2 * MOST_BYTES


async def test_an_error_in_mid_stream_is_bounded_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    script = ScriptedModel(reply=[TextDelta(text="a"), EngineFailed(HUGE, detail=HUGE)])
    async with scripted_host({A: script}, resident=[A]) as host:
        logged(capsys)
        reply = await host.client.post(CHAT, chat(stream=True))
    last = [line for line in reply.body.split(b"\n") if line.startswith(b"data: ")][-1]
    assert CANARY in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    assert len(last) < MOST_BYTES
    assert len(logged(capsys)) < MOST_BYTES


async def test_a_bug_logs_its_traceback_and_not_much_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_request: object, **_options: object) -> Any:
        raise RuntimeError(HUGE)

    configure_logging("info")
    async with scripted_host(resident=[A]) as host:
        logged(capsys)
        monkeypatch.setattr(host.registry, "run", stumble)
        reply = await host.client.post(CHAT, chat())
    assert (reply.status, len(reply.body) < MOST_BYTES) == (500, True)
    assert len(logged(capsys)) < 20_000


async def test_only_a_part_of_a_long_message_of_a_driver_is_quoted() -> None:
    discovery = type(CPU_HOST)(
        hostname="h", os="Linux", kernel="6", devices=(), harnesses=(), cuda_unavailable_reason=HUGE
    )
    async with scripted_host(discovery=discovery) as host:
        reply = await host.client.post(LOAD, {"model_id": "o/a", "harness": "scripted"})
    assert (reply.status, len(reply.body) < MOST_BYTES) == (503, True)
