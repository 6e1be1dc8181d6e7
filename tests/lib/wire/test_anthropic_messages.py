import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import Chat, Grammar, Principal, SamplingParams, ToolChoice
from neuron_lib.wire import anthropic_messages
from neuron_lib.wire.anthropic_messages import MessagesRequest
from neuron_lib.wire.anthropic_reply import ReplyStyle
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType

HELLO = {"role": "user", "content": "hello"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL: dict[str, Any] = {"name": "weather", "description": "d", "input_schema": SCHEMA}
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA},
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
SILENT = {"enable_thinking": False, "thinking": False, "thinking_mode": "disabled"}
THINKS = {"enable_thinking": True, "thinking": True, "thinking_mode": "enabled"}
"""What templates are told of a model that is not to reason, and of one that is."""
HEADERS = {"content-type": "application/json", "x-api-key": "any", "anthropic-version": "2023-06-01"}


def decode_raw(raw: bytes) -> MessagesRequest:
    return anthropic_messages.decode(raw, headers=HEADERS, principal=None)


def decode(**fields: Any) -> MessagesRequest:
    return decode_raw(json.dumps({"model": "a/b", "max_tokens": 9, "messages": [HELLO]} | fields).encode())


def text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def use(id: str = "t1", **more: Any) -> dict[str, Any]:  # noqa: A002 - the wire's word
    return {"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Rome"}} | more


def result(id: str = "t1", **more: Any) -> dict[str, Any]:  # noqa: A002 - the wire's word
    return {"type": "tool_result", "tool_use_id": id} | more


def called(id: str = "t1") -> dict[str, Any]:  # noqa: A002 - the wire's word
    return {"id": id, "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def told(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return list(decode(messages=list(messages), **fields).task.messages)


# ------------------------------------------------------------------------------------------------------------ fields


def test_the_smallest_request_leaves_every_choice_open() -> None:
    request = decode()
    assert request.task == Chat(model_id="a/b", messages=(HELLO,), max_tokens=9, template_kwargs=SILENT, whole=True)
    assert (request.stream, request.style) == (False, ReplyStyle())


def test_every_field_arrives() -> None:
    body = {
        "model": "a/b",
        "max_tokens": 2048,
        "messages": [HELLO],
        "system": "Be brief.",
        "stop_sequences": ["a", "b", "", "a"],
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "min_p": 0.1,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "output_config": {"effort": "max", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "chat_template_kwargs": {"x": 1},
        "continue_final_message": True,
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
        "cache_control": {"type": "ephemeral"},
        "some_future_field": [None],
    }
    principal = Principal("acc", "key")
    request = anthropic_messages.decode(json.dumps(body).encode(), headers=HEADERS, principal=principal)
    assert request.task == Chat(
        model_id="a/b",
        messages=({"role": "system", "content": "Be brief."}, HELLO),
        max_tokens=2048,
        stop=("a", "b"),
        sampling=SamplingParams(temperature=0.5, top_p=0.9, top_k=40, seed=7, min_p=0.1),
        template_kwargs=THINKS | {"thinking_budget": 1024, "reasoning_effort": "high", "x": 1},
        continue_final_message=True,
        reasoning_budget=1024,
        tools=(FUNCTION,),
        tool_choice=ToolChoice(mode="required", name="weather", parallel=False),
        grammar=Grammar("json_schema", '{"type":"object"}', "output_config.format"),
        principal=principal,
    )
    assert request.stream
    assert request.style == ReplyStyle(thinking="shown", parallel_tool_use=False)


def test_null_means_absent_everywhere() -> None:
    names = (
        "system stop_sequences stream temperature top_p top_k seed thinking tools tool_choice output_config "
        "output_format metadata service_tier container context_management mcp_servers inference_geo cache_control "
        "compaction thread diagnostics stop n logprobs response_format chat_template_kwargs continue_final_message"
    )
    assert decode(**dict.fromkeys(names.split())) == decode()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**64}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [HELLO] * 10_001}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 5001}] * 2}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [user({"text": "x"})]}, "messages[0].content[0].type"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [str(i) for i in range(17)]}, "stop_sequences"),
        ({"stop_sequences": ["x" * 1025]}, "stop_sequences[0]"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "always"}}, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "output_config.task_budget"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema", "schema": 3}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"container": "c"}, "container"),
        ({"compaction": {}}, "compaction"),
        ({"stop": ["END"]}, "stop"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"response_format": {"type": "banana"}}, "response_format.type"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"thread": {"id": "t"}}, "thread"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"inference_geo": "us"}, "inference_geo"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits[0].type",
        ),
        ({"system": 3}, "system"),
        ({"system": [IMAGE]}, "system[0].type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp_toolset", "mcp_server_name": "m"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "tools[0].input_schema"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL | {"allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers"),
        ({"tools": [TOOL | {"input_examples": [3]}]}, "tools[0].input_examples[0]"),
        ({"tools": [{"name": str(i), "input_schema": {}} for i in range(1025)]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "weather"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "any", "name": "weather"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tool_choice"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)


def test_a_body_must_be_json() -> None:
    with pytest.raises(MalformedJson):
        decode_raw(b"{")
    with pytest.raises(UnsupportedMediaType):
        anthropic_messages.decode(b"{}", headers={}, principal=None)


@pytest.mark.parametrize(
    ("thinking", "words", "budget", "shown"),
    [
        (None, SILENT, None, "hidden"),
        ({"type": "disabled"}, SILENT, None, "hidden"),
        ({"type": "adaptive"}, THINKS, None, "shown"),
        ({"type": "adaptive", "display": "summarized"}, THINKS, None, "shown"),
        ({"type": "adaptive", "display": "omitted"}, THINKS, None, "omitted"),
        ({"type": "enabled", "budget_tokens": 1}, THINKS | {"thinking_budget": 1}, 1, "shown"),
        ({"type": "enabled", "budget_tokens": 9999}, THINKS | {"thinking_budget": 9999}, 9999, "shown"),
    ],
)
def test_thinking_is_for_the_template_the_budget_and_the_reply(
    thinking: Any, words: dict[str, Any], budget: int | None, shown: str
) -> None:
    request = decode(thinking=thinking)
    assert request.task.template_kwargs == words
    assert (request.task.reasoning_budget, request.style.thinking) == (budget, shown)


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, ToolChoice()),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any"}, ToolChoice(mode="required")),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice(mode="required", parallel=False)),
        ({"type": "tool", "name": "weather"}, ToolChoice(mode="required", name="weather")),
        ({"type": "none"}, ToolChoice(mode="none")),
    ],
)
def test_the_choice_of_tools_becomes_that_of_the_task(choice: Any, wanted: ToolChoice) -> None:
    task = decode(tools=[TOOL], tool_choice=choice).task
    assert task.tool_choice == wanted
    assert list(task.tools) == ([] if wanted.mode == "none" else [FUNCTION])


@pytest.mark.parametrize(
    ("tool", "function"),
    [
        ({"name": "f", "input_schema": {}}, {"name": "f", "parameters": {}}),
        ({"type": "custom", "name": "f", "input_schema": {"a": [1.5]}}, {"name": "f", "parameters": {"a": [1.5]}}),
        (TOOL | {"strict": True}, FUNCTION["function"] | {"strict": True}),
        (TOOL | {"input_examples": [{"city": "Rome"}]}, FUNCTION["function"] | {"input_examples": [{"city": "Rome"}]}),
        (TOOL | {"defer_loading": True, "cache_control": {"type": "ephemeral"}}, FUNCTION["function"]),
        (TOOL | {"allowed_callers": ["direct"], "eager_input_streaming": True}, FUNCTION["function"]),
    ],
)
def test_a_tool_becomes_a_function(tool: dict[str, Any], function: dict[str, Any]) -> None:
    assert list(decode(tools=[tool]).task.tools) == [{"type": "function", "function": function}]


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_a_schema_of_the_reply_comes_in_the_new_field_or_the_old_one(field: str) -> None:
    shape = {"type": "json_schema", "schema": {"type": "object", "b": 1, "a": 2}}
    grammar = decode(**{field: {"format": shape} if field == "output_config" else shape}).task.grammar
    assert grammar is not None
    assert (grammar.kind, grammar.source) == ("json_schema", '{"type":"object","b":1,"a":2}')
    with pytest.raises(InvalidRequest) as caught:
        decode(output_config={"format": shape}, output_format=shape)
    assert caught.value.param == "output_format"


@pytest.mark.parametrize(
    "fields",
    [
        {"context_management": {"edits": []}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"inference_geo": "global"},
        {"mcp_servers": []},
        {"n": 1, "logprobs": False, "stop": [], "parallel_tool_calls": True},
        {"output_config": {}},
        {"speed": "fast", "user_profile_id": "u", "diagnostics": {"previous_message_id": None}},
        {"tools": []},
        {"stop_sequences": []},
        {"system": ""},
        {"system": []},
    ],
)
def test_fields_that_ask_for_what_happens_anyway_are_accepted(fields: dict[str, Any]) -> None:
    assert decode(**fields) == decode()


# ---------------------------------------------------------------------------------------------------- the conversation


@pytest.mark.parametrize(
    ("system", "content"),
    [
        ("Be brief.", "Be brief."),
        ([text("Be brief.") | {"cache_control": {"type": "ephemeral"}}], "Be brief."),
        ([text("Be"), text(""), text(" brief.")], "Be brief."),
        ([text("You write."), text("Be brief.\n"), text("Be kind.")], "You write.\nBe brief.\nBe kind."),
        ([text("x-anthropic-billing-header: cch=1;"), text("Be brief.")], "Be brief."),
    ],
)
def test_the_system_prompt_is_the_first_message(system: Any, content: Any) -> None:
    assert told(HELLO, system=system) == [{"role": "system", "content": content}, HELLO]


CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a text is one block of text": ([user(text("hello"))], [HELLO]),
    "blocks of text are one text": (
        [user(text("a"), text("b "), text("c"))],
        [{"role": "user", "content": "a\nb c"}],
    ),
    "an empty content stays": ([user()], [{"role": "user", "content": ""}]),
    "users in a row are one turn": (
        [HELLO, user(text("a"), text("b"))],
        [{"role": "user", "content": "hello\n\na\nb"}],
    ),
    "the reply begins where the assistant's last message ends": (
        [HELLO, {"role": "assistant", "content": "The answer is ("}],
        [HELLO, {"role": "assistant", "content": "The answer is ("}],
    ),
    "a system message in between": (
        [HELLO, {"role": "system", "content": "Now in French."}, {"role": "system", "content": "Please."}],
        [HELLO, {"role": "system", "content": "Now in French."}, {"role": "system", "content": "Please."}],
    ),
    "a system block in between": (
        [user(text("hello"), {"type": "mid_conv_system", "content": [text("Now in French.")]}, text("Go on."))],
        [HELLO, {"role": "system", "content": "Now in French."}, {"role": "user", "content": "Go on."}],
    ),
    "two calls and their results, with text beside them": (
        [
            HELLO,
            assistant(text("Let me look."), use("t1"), use("t2")),
            user(result("t2", content="rain"), text("And now?"), result("t1", content=[text("sun"), text("23 C")])),
        ],
        [
            HELLO,
            {"role": "assistant", "content": "Let me look.", "tool_calls": [called("t1"), called("t2")]},
            {"role": "tool", "tool_call_id": "t2", "name": "weather", "content": "rain"},
            {"role": "tool", "tool_call_id": "t1", "name": "weather", "content": "sun\n23 C"},
            {"role": "user", "content": "And now?"},
        ],
    ),
    "the results of parallel calls in two messages": (
        [assistant(use("t1"), use("t2")), user(result("t1", content="a")), user(result("t2", content="b"))],
        [
            {"role": "assistant", "content": "", "tool_calls": [called("t1"), called("t2")]},
            {"role": "tool", "tool_call_id": "t1", "name": "weather", "content": "a"},
            {"role": "tool", "tool_call_id": "t2", "name": "weather", "content": "b"},
        ],
    ),
    "results that are errors, and that are empty": (
        [
            user(
                result("t1", content="no network", is_error=True),
                result("t2", content="error: no network", is_error=True),
                result("t3", is_error=True),
                result("t4", content=[], is_error=False),
            )
        ],
        [
            {"role": "tool", "tool_call_id": "t1", "content": "Error: no network"},
            {"role": "tool", "tool_call_id": "t2", "content": "error: no network"},
            {"role": "tool", "tool_call_id": "t3", "content": "Error"},
            {"role": "tool", "tool_call_id": "t4", "content": ""},
        ],
    ),
    "a call without input": (
        [assistant({"type": "tool_use", "id": "t1", "name": "f"})],
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": {}}}],
            }
        ],
    ),
    "thinking is reasoning": (
        [
            HELLO,
            assistant(
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                text("Hi."),
                {"type": "thinking", "thinking": "Done.", "signature": "s"},
            ),
        ],
        [HELLO, {"role": "assistant", "content": "Hi.", "reasoning_content": "Hm.\nDone."}],
    ),
    "an image": (
        [user(text("see"), IMAGE)],
        [user(text("see"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})],
    ),
    "an image as the result of a tool": (
        [user(result("t1", content=[text("a"), IMAGE]))],
        [
            {
                "role": "tool",
                "tool_call_id": "t1",
                "content": [text("a"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
            }
        ],
    ),
    "documents": (
        [
            user(
                {
                    "type": "document",
                    "title": "T",
                    "context": "C",
                    "citations": {"enabled": False},
                    "source": {"type": "text", "media_type": "text/plain", "data": "D"},
                },
                {"type": "document", "title": "T", "source": {"type": "content", "content": "D"}},
                {"type": "document", "source": {"type": "content", "content": [text("D"), text("E")]}},
            )
        ],
        [{"role": "user", "content": "T\nC\nD\nT\nD\nD\nE"}],
    ),
    "search results": (
        [
            user(
                result(
                    "t1",
                    content=[
                        {"type": "search_result", "title": "T", "source": "S", "content": [text("A"), text("B")]},
                        {"type": "tool_reference", "tool_name": "weather"},
                    ],
                )
            )
        ],
        [{"role": "tool", "tool_call_id": "t1", "content": "T\nS\nA\nB\nweather"}],
    ),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_a_conversation_becomes_openai_s_messages(case: str) -> None:
    messages, wanted = CONVERSATIONS[case]
    assert told(*messages) == wanted


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (user({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}), "content[0].type"),
        (user({"type": "container_upload", "file_id": "f"}), "content[0].type"),
        (user(text("a"), use()), "content[1].type"),
        (user({"type": "thinking", "thinking": "x"}), "content[0].type"),
        (user({"type": "text"}), "content[0].text"),
        (user({"type": "image"}), "content[0].source"),
        (user({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}), "content[0].source.type"),
        (user({"type": "image", "source": {"type": "file", "file_id": "f"}}), "content[0].source.type"),
        (user({"type": "document", "source": {"type": "base64", "data": "JVBERi0="}}), "content[0].source.type"),
        (user({"type": "document", "source": {"type": "url", "url": "https://x"}}), "content[0].source.type"),
        (
            user({"type": "document", "citations": {"enabled": True}, "source": {"type": "text", "data": "x"}}),
            "content[0].citations",
        ),
        (
            user({"type": "document", "source": {"type": "content", "content": [{"type": "document"}]}}),
            "content[0].source.content[0].type",
        ),
        (user({"type": "search_result", "source": "s", "content": [IMAGE]}), "content[0].content[0].type"),
        (user({"type": "mid_conv_system", "content": [IMAGE]}), "content[0].content[0].type"),
        (user({"type": "tool_reference"}), "content[0].type"),
        (user({"type": "tool_result"}), "content[0].tool_use_id"),
        (user(result(content=3)), "content[0].content"),
        (user(result(content=[result()])), "content[0].content[0].type"),
        (user(result(content=[text("a"), {"type": "audio"}])), "content[0].content[1].type"),
        (assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}), "content[0].type"),
        (assistant(result()), "content[0].type"),
        (assistant(use(id="")), "content[0].id"),
        (assistant(use(name=None)), "content[0].name"),
        (assistant(use(input=[1])), "content[0].input"),
        ({"role": "system", "content": [IMAGE]}, "content[0].type"),
    ],
)
def test_a_block_that_cannot_be_shown_to_the_model_is_refused_by_its_place(message: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        told(HELLO, message)
    assert caught.value.param == f"messages[1].{place}"


def test_the_request_of_a_coding_agent_loses_nothing() -> None:
    kept = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    request = decode(
        system=[
            text("x-anthropic-billing-header: cc_version=2; cch=1;"),
            text("You write code.") | kept,
            text("Be brief."),
        ],
        messages=[
            user(text("<reminder>Use the tools.</reminder>\n"), text("Look around.") | kept),
            assistant({"type": "thinking", "thinking": "Hm.", "signature": "unsigned"}, use("t1")),
            user(result("t1", content=[text("one"), text("two")], is_error=False) | kept),
            {"role": "system", "content": "The mode has changed."},
            user(text("Go on.") | kept),
        ],
        tools=[TOOL | kept | {"eager_input_streaming": True}, {"type": "custom", "name": "edit", "input_schema": {}}],
        tool_choice={"type": "auto"},
        thinking={"type": "adaptive"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        output_config={"effort": "high"},
        metadata={"user_id": "u"},
        max_tokens=32000,
        stream=True,
    )
    assert list(request.task.messages) == [
        {"role": "system", "content": "You write code.\nBe brief."},
        {"role": "user", "content": "<reminder>Use the tools.</reminder>\nLook around."},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [called("t1")]},
        {"role": "tool", "tool_call_id": "t1", "name": "weather", "content": "one\ntwo"},
        {"role": "system", "content": "The mode has changed."},
        {"role": "user", "content": "Go on."},
    ]
    assert [tool["function"]["name"] for tool in request.task.tools] == ["weather", "edit"]
    assert request.task.template_kwargs == THINKS | {"reasoning_effort": "high"}


def test_the_log_of_a_refusal_has_no_text_of_the_client() -> None:
    with pytest.raises(InvalidRequest) as caught:
        told(user({"type": "secret"}))
    assert "secret" in caught.value.message
    assert "secret" not in caught.value.log_message


def test_messages_have_a_bounded_depth() -> None:
    deep: dict[str, Any] = {}
    for _ in range(120):
        deep = {"a": deep}
    with pytest.raises(MalformedJson) as caught:
        told(assistant(use(input=deep)))
    assert caught.value.param == "messages"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BLOCK_FIELDS = "text thinking id name tool_use_id tool_name is_error title context input content source citations"
BLOCKS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["text", "image", "document", "search_result", "thinking", "tool_use", "tool_result", "tool_reference", "x"]
        )
    },
    optional=dict.fromkeys(BLOCK_FIELDS.split(), JSON_VALUES),
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.lists(BLOCKS, max_size=3) | JSON_VALUES}
)


@given(st.lists(MESSAGES, min_size=1, max_size=3))
def test_messages_of_any_shape_are_read_or_refused(messages: list[dict[str, Any]]) -> None:
    with suppress(InvalidRequest):
        for message in told(*messages):
            assert message["role"] in {"system", "user", "assistant", "tool"}
            assert isinstance(message["content"], str | list)


@given(st.dictionaries(st.sampled_from(["system", "tools", "tool_choice", "thinking", "output_config"]), JSON_VALUES))
def test_fields_of_any_shape_are_read_or_refused(fields: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        decode(**fields)
