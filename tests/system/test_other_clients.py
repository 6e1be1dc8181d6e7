"""What pages in browsers and clients of llama.cpp, vLLM and older OpenAI packages need, with a real model."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from neuron_lib import __version__
from tests.system.daemon import MODELS, Daemon, chat, running_daemon, stream_payloads

pytestmark = [pytest.mark.system, pytest.mark.model]

A = "test/one"
CHAT = "/v1/chat/completions"
CONFIG = f"""
default_models = [{{ model_id = "{A}", harness = "llamacpp" }}]
{MODELS}
[http]
cors_origins = ["*"]
model_aliases = {{ "dummy" = "{A}" }}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), CONFIG) as daemon:
        daemon.wait_ready()
        yield daemon


def ask(daemon: Daemon, **fields: Any) -> Any:
    reply = daemon.client.post(CHAT, json=chat(A, max_tokens=24) | {"temperature": 0} | fields)
    assert reply.status_code == httpx.codes.OK, reply.text
    return reply.json()


def content(daemon: Daemon, **fields: Any) -> str:
    text: str = ask(daemon, **fields)["choices"][0]["message"]["content"]
    return text


# ------------------------------------------------------------------------------------------------------------- pages


def test_the_start_warns_of_a_service_that_every_page_may_use(daemon: Daemon) -> None:
    assert "`http.cors_origins` has *" in daemon.log


def test_a_page_may_ask_and_read_a_stream_and_an_error(daemon: Daemon) -> None:
    page = {"origin": "https://app.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    preflight = daemon.client.options(CHAT, headers=page | asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "*")
    assert preflight.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
    stream, error = (
        daemon.client.post(CHAT, json=chat(model, max_tokens=4) | {"stream": True}, headers=page)
        for model in (A, "test/none")
    )
    assert (stream.status_code, stream.headers["access-control-allow-origin"]) == (200, "*")
    assert (error.status_code, error.headers["access-control-allow-origin"]) == (404, "*")
    assert error.json()["error"]["code"] == "model_not_found"


def test_the_description_names_the_version_and_what_is_answered(daemon: Daemon) -> None:
    description = daemon.client.get("/openapi.json").json()
    assert description["info"]["version"] == __version__
    assert {"/health", "/models/load", CHAT, "/chat/completions"} <= set(description["paths"])


# ----------------------------------------------------------------------------------------------------------- clients


def test_a_client_that_names_no_model_gets_the_one_of_its_alias(daemon: Daemon) -> None:
    assert ask(daemon, model="dummy")["model"] == "dummy"
    assert daemon.client.post(CHAT, json=chat("tgi")).status_code == httpx.codes.NOT_FOUND


def test_timings_and_usage_tell_the_same_counts(daemon: Daemon) -> None:
    reply = ask(daemon)
    usage, timings = reply["usage"], reply["timings"]
    assert timings["predicted_n"] == usage["completion_tokens"] > 0
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert (timings["cache_n"], timings["prompt_n"]) == (cached, usage["prompt_tokens"] - cached)
    assert reply["system_fingerprint"] == f"neuron-{__version__}"


def test_the_usage_of_a_stream_grows_from_event_to_event(daemon: Daemon) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = chat(A, max_tokens=12) | {"stream": True, "stream_options": options}
    with daemon.client.stream("POST", CHAT, json=body) as reply:
        chunks = [chunk for chunk in stream_payloads(reply.iter_lines()) if chunk != "[DONE]"]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == max(counts) > 2
    assert chunks[-1]["choices"] == []


def test_a_token_of_the_request_ends_the_reply_before_itself(daemon: Daemon) -> None:
    tokens = ask(daemon, logprobs=True)["choices"][0]["logprobs"]["content"]
    pieces = [token["token"] for token in tokens]
    index = next(i for i in range(2, len(pieces)) if pieces[i] not in pieces[:i])
    (end,) = daemon.client.post("/tokenize", json={"model": A, "content": pieces[index]}).json()["tokens"]
    reply = ask(daemon, stop_token_ids=[end])
    assert reply["choices"][0]["message"]["content"] == "".join(pieces[:index])
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == index


@pytest.mark.parametrize("field", ["grammar", "guided_grammar"])
def test_a_reply_has_the_form_of_a_grammar_in_gbnf(daemon: Daemon, field: str) -> None:
    assert content(daemon, **{field: 'root ::= "yes" | "no"'}) in {"yes", "no"}
    nested = content(daemon, **{field: 'root ::= "(" root ")" | [0-9]'}, max_tokens=64)
    assert nested.strip("()").isdigit()


def test_a_grammar_in_gbnf_that_is_not_translated_is_refused_with_the_reason(daemon: Daemon) -> None:
    reply = daemon.client.post(CHAT, json=chat(A) | {"grammar": "root ::= <think>"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_grammar", "grammar")
    assert "tokens in angle brackets are not read" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_functions_gets_a_function_call(daemon: Daemon, *, stream: bool) -> None:
    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    function = {"name": "weather", "parameters": parameters}
    body = chat(A, max_tokens=60) | {"functions": [function], "function_call": {"name": "weather"}, "stream": stream}
    if stream:
        with daemon.client.stream("POST", CHAT, json=body) as reply:
            chunks = [chunk for chunk in stream_payloads(reply.iter_lines()) if chunk != "[DONE]"]
        choices = [chunk["choices"][0] for chunk in chunks]
        (call,) = [each["delta"]["function_call"] for each in choices if "function_call" in each["delta"]]
        reason = choices[-1]["finish_reason"]
    else:
        choice = daemon.client.post(CHAT, json=body).json()["choices"][0]
        call, reason = choice["message"]["function_call"], choice["finish_reason"]
    assert (call["name"], reason) == ("weather", "function_call")
    assert json.loads(call["arguments"])["city"] in {"Oslo", "Rome"}
