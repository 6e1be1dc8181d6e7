"""What clients of OpenAI, vLLM and llama.cpp ask for, with the official client, a real daemon and a real model."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.system.daemon import MODELS, Daemon, chat, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

ONE = 'default_models = [{ model_id = "test/one", harness = "llamacpp" }]\n' + MODELS
CHAT = "/v1/chat/completions"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hello."}]
TOOLS: list[ChatCompletionToolParam] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
SCHEMA = {
    "type": "object",
    "properties": {"zz": {"type": "boolean"}},
    "required": ["zz"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("daemon"), ONE) as daemon:
        daemon.wait_ready()
        yield daemon


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(daemon: Daemon, **fields: Any) -> httpx.Response:
    return daemon.client.post(CHAT, json=chat("test/one", max_tokens=24) | {"temperature": 0} | fields)


def content(daemon: Daemon, **fields: Any) -> str:
    reply = post(daemon, **fields)
    assert reply.status_code == httpx.codes.OK, reply.text
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


def prompt_tokens(daemon: Daemon, messages: Sequence[Any], **fields: Any) -> int:
    reply = post(daemon, messages=messages, **fields)
    assert reply.status_code == httpx.codes.OK, reply.text
    count: int = reply.json()["usage"]["prompt_tokens"]
    return count


@pytest.mark.parametrize("asked", [None, False])
def test_every_chunk_of_a_stream_has_a_choice_for_clients_that_do_not_check(
    client: openai.OpenAI, *, asked: bool | None
) -> None:
    options: Any = openai.NOT_GIVEN if asked is None else {"include_usage": asked}
    stream = client.chat.completions.create(
        model="test/one", messages=HELLO, max_tokens=8, stream=True, stream_options=options
    )
    deltas = [(chunk.choices[0].delta.content, chunk.usage) for chunk in stream]
    assert deltas[0][0] == ""
    assert [usage is None for _, usage in deltas] == [True] * (len(deltas) - 1) + [False]


def test_a_client_that_asks_for_the_usage_of_a_stream_gets_it_in_a_chunk_of_its_own(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="test/one", messages=HELLO, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    *_, finish, last = stream
    assert finish.choices[0].finish_reason is not None
    assert finish.usage is None
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"top_logprobs": 21, "logprobs": True},
        {"max_tokens": 0},
        {"messages": []},
        {"messages": [{"role": "banana", "content": "x"}]},
        {"tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"logit_bias": {"999999": 5}},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_an_impossible_parameter_is_a_bad_request_to_the_official_client(
    client: openai.OpenAI, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "test/one", "messages": HELLO} | fields))
    assert caught.value.type == "invalid_request_error"
    assert str(caught.value.param).split(".")[0].split("[")[0] in fields


def test_values_that_mean_off_on_other_servers_are_accepted(daemon: Daemon) -> None:
    plain = content(daemon)
    assert plain == content(daemon, seed=-1, stop="", top_k=-1, top_p=1, top_logprobs=0, tool_choice="none")
    assert plain == content(daemon, stop=[""], stream_options=None, max_completion_tokens=-1)


def test_top_p_of_0_is_the_likeliest_token_at_any_temperature(daemon: Daemon) -> None:
    assert content(daemon, temperature=5, top_p=0) == content(daemon, temperature=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
    ],
)
def test_a_schema_binds_the_reply_however_it_is_spelled(daemon: Daemon, fields: dict[str, Any]) -> None:
    assert json.loads(content(daemon, **fields)) in ({"zz": True}, {"zz": False})


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_choice": ["$5 (five)", "a|b", "c\nd"]},
        {"structured_outputs": {"choice": ["$5 (five)", "a|b", "c\nd"]}},
        {"guided_regex": r"\$5 \(five\)|a\|b"},
        {"structured_outputs": {"grammar": 'start: "a|b"'}},
    ],
)
def test_a_choice_is_made_letter_by_letter(daemon: Daemon, fields: dict[str, Any]) -> None:
    assert content(daemon, **fields) in {"$5 (five)", "a|b", "c\nd"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"structured_outputs": {"json": {"type": "banana"}}}, "structured_outputs.json"),
        ({"guided_grammar": "root ::= other"}, "guided_grammar"),
    ],
)
def test_a_shape_that_does_not_compile_is_refused_under_the_name_that_the_client_uses(
    daemon: Daemon, fields: dict[str, Any], param: str
) -> None:
    error = post(daemon, **fields).json()["error"]
    assert (error["code"], error["param"]) == ("invalid_grammar", param)
    assert error["message"].startswith(f"{param}: ")
    assert ("Lark" in error["message"]) is (param == "guided_grammar")


def test_no_tool_choice_hides_the_tools(daemon: Daemon) -> None:
    hello = [{"role": "user", "content": "x"}]
    assert prompt_tokens(daemon, hello, tools=TOOLS, tool_choice="none") == prompt_tokens(daemon, hello)


LOOK: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "look",
        "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    },
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_call_that_is_required_comes_and_fits(client: openai.OpenAI, choice: Any, *, stream: bool) -> None:
    asked: Any = {"tools": [*TOOLS, LOOK], "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 200}
    reply: Any
    if stream:
        with client.chat.completions.stream(model="test/one", messages=HELLO, **asked) as events:
            reply = events.get_final_completion()
    else:
        reply = client.chat.completions.create(model="test/one", messages=HELLO, **asked)
    message = reply.choices[0].message
    (call,) = message.tool_calls
    assert call.type == "function"
    assert reply.choices[0].finish_reason == "tool_calls"
    assert not message.content
    if call.function.name == "look":
        assert json.loads(call.function.arguments)["city"] in {"Rome", "Oslo"}
    else:
        assert choice == "required"


def test_a_call_that_is_cut_is_no_text(daemon: Daemon) -> None:
    for most in (1, 5, 9):
        reply = post(daemon, tools=[LOOK], tool_choice="required", max_tokens=most).json()["choices"][0]
        assert (reply["finish_reason"], reply["message"]["content"]) == ("length", "")
        assert "tool_calls" not in reply["message"]


def test_beside_tools_an_answer_has_its_shape(daemon: Daemon) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    message = post(daemon, tools=[LOOK], response_format=shape, max_tokens=200).json()["choices"][0]["message"]
    if "tool_calls" in message:
        assert json.loads(message["tool_calls"][0]["function"]["arguments"])["city"] in {"Rome", "Oslo"}
    else:
        assert set(json.loads(message["content"])) == {"zz"}


FRANCE = {"role": "user", "content": "What is the capital of France?"}
BEGUN = {"role": "assistant", "content": "The capital of France is the city of"}


@pytest.mark.parametrize("fields", [{}, {"continue_final_message": True, "add_generation_prompt": False}])
def test_a_last_message_of_the_assistant_is_continued(daemon: Daemon, fields: dict[str, Any]) -> None:
    assert content(daemon, messages=[FRANCE, BEGUN], **fields).startswith(" Paris")
    parts = {"role": "assistant", "content": [{"type": "text", "text": BEGUN["content"]}]}
    assert content(daemon, messages=[FRANCE, parts], **fields).startswith(" Paris")


@pytest.mark.parametrize("fields", [{"continue_final_message": False}, {"add_generation_prompt": True}])
def test_a_new_message_is_begun_if_the_request_says_so(daemon: Daemon, fields: dict[str, Any]) -> None:
    assert not content(daemon, messages=[FRANCE, BEGUN], **fields).startswith(" Paris")


@pytest.mark.parametrize(
    ("messages", "fields", "param"),
    [
        ([FRANCE, BEGUN], {"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ([FRANCE], {"continue_final_message": True}, "continue_final_message"),
        ([FRANCE, BEGUN, BEGUN], {}, "messages"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    daemon: Daemon, messages: list[Any], fields: dict[str, Any], param: str
) -> None:
    reply = post(daemon, messages=messages, **fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_the_text_of_parts_is_kept_and_unknown_parts_are_left_out(daemon: Daemon) -> None:
    parts = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}},
        {"type": "document", "source": {"type": "text", "data": "x"}},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "two"},
    ]
    for role in ("user", "assistant", "system"):
        assert prompt_tokens(daemon, [{"role": role, "content": parts}, *HELLO]) == prompt_tokens(
            daemon, [{"role": role, "content": "onetwo"}, *HELLO]
        )


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "vision_unsupported"),
        ({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}, "vision_unsupported"),
        ({"type": "image_url"}, "vision_unsupported"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "audio_unsupported"),
        ({"type": "file", "file": {"file_id": "x"}}, "file_unsupported"),
    ],
)
def test_content_that_the_model_cannot_read_is_refused(daemon: Daemon, part: dict[str, Any], code: str) -> None:
    reply = post(daemon, messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, part]}])
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, code)


HALF_A_PAIR = rb'{"model":"test/one","messages":[{"role":"user","content":"x","x":"\ud800"}]}'
HOSTILE = [
    b'{"model":"test/one","messages":[{"role":"user","content":"x","x":[' + b"[]," * 690_000 + b"[]]}]}",
    b'{"model":"test/one","messages":[{"role":"user","content":"' + b",[{" * 690_000 + b'"}]}',
    b'{"model":"test/one","messages":[{"role":"user","content":"' + rb"\"" * 1_000_000 + b'"}]}',
    b'{"model":"test/one","messages":[{"role":"user","content":"x"}],"tools":' + b"[" * 1_000_000,
    HALF_A_PAIR,
]


@pytest.mark.parametrize("body", HOSTILE, ids=["lists", "text like lists", "quotes", "deep", "half a pair"])
def test_sixteen_hostile_bodies_at_once_are_refused_and_cost_little_memory(daemon: Daemon, body: bytes) -> None:
    def send(_: int) -> int:
        headers = {"content-type": "application/json"}
        return httpx.post(
            f"{daemon.url}{CHAT}", content=body, headers=headers, timeout=120, trust_env=False
        ).status_code

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(send, range(16)))
    assert set(statuses) == {400}
    assert most_kb(daemon) < 700_000
    assert content(daemon)


def most_kb(daemon: Daemon) -> int:
    """The most memory that the daemon has had so far, in KiB."""
    with open(f"/proc/{daemon.process.pid}/status") as status:  # noqa: PTH123 - no ordinary file
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
