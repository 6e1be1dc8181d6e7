import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import (
    Chat,
    Finished,
    FinishReason,
    Grammar,
    Principal,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    ToolChoice,
    Usage,
)
from neuron_lib.wire import openai_responses
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.openai_chat import ChatCompletionBody
from neuron_lib.wire.openai_responses import ResponsesBody, ResponsesRequest
from neuron_lib.wire.openai_responses_errors import ChainedConversation
from neuron_lib.wire.refused_parameters import WITHOUT_EFFECT

JSON = {"content-type": "application/json"}
USER = {"role": "user", "content": "hi"}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
FLAT = {"type": "function", "name": "f", "parameters": PARAMETERS}
NESTED: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "warm"}


def decode_raw(raw: bytes) -> ResponsesRequest:
    return openai_responses.decode(raw, headers=JSON, principal=None)


def decode(**fields: Any) -> ResponsesRequest:
    return decode_raw(json.dumps({"model": "a/b", "input": "hi"} | fields).encode())


def messages(*items: dict[str, Any], **fields: Any) -> list[Any]:
    return list(decode(input=list(items), **fields).task.messages)


def refused(**fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    return caught.value.param, caught.value.message


def item_of_reasoning(*summaries: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": text} for text in summaries],
    } | fields


def said(text: str, **fields: Any) -> dict[str, Any]:
    """A message as this API answers it."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]} | fields


# ------------------------------------------------------------------------------------------------------------ the task


def test_the_smallest_request_leaves_every_choice_open() -> None:
    request = decode()
    assert request.task == Chat(
        model_id="a/b",
        messages=(USER,),
        template_kwargs={"enable_thinking": False},
        whole=True,
        continue_final_message=False,
    )
    assert not request.stream


def test_every_field_arrives() -> None:
    body = {
        "model": "a/b",
        "input": "hi",
        "instructions": "be kind",
        "stream": True,
        "stream_options": {"include_obfuscation": False, "include_usage": True},
        "max_output_tokens": 7,
        "max_tool_calls": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 3,
        "repetition_penalty": 1.2,
        "repeat_last_n": 9,
        "tools": [FLAT],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "reasoning": {"effort": "high", "summary": "auto"},
        "thinking_budget_tokens": 9,
        "top_logprobs": 2,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "metadata": {"k": "v"},
        "store": True,
        "truncation": "auto",
        "service_tier": "flex",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "chat_template_kwargs": {"x": 1},
        "some_future_field": [None],
    }
    request = openai_responses.decode(json.dumps(body).encode(), headers=JSON, principal=Principal("acc", "key"))
    assert request.stream
    assert request.task == Chat(
        model_id="a/b",
        messages=({"role": "system", "content": "be kind"}, USER),
        tools=(NESTED,),
        tool_choice=ToolChoice("required", parallel=False),
        template_kwargs={**THINKS, "reasoning_effort": "high", "thinking_budget": 9, "verbosity": "low", "x": 1},
        reasoning_budget=9,
        sampling=SamplingParams(temperature=0.5, top_p=0.9, top_k=40, seed=3, repetition_penalty=1.2, repeat_last_n=9),
        max_tokens=7,
        top_logprobs=2,
        principal=Principal("acc", "key"),
        continue_final_message=False,
    )


def test_null_means_absent_everywhere() -> None:
    names = (
        "instructions stream stream_options max_output_tokens max_tool_calls temperature top_p seed tools tool_choice "
        "parallel_tool_calls text reasoning top_logprobs include metadata store previous_response_id conversation "
        "background prompt truncation user safety_identifier service_tier prompt_cache_key context_management "
        "moderation chat_template_kwargs"
    )
    assert decode(**dict.fromkeys(names.split())) == decode()


# ------------------------------------------------------------------------------------------------------------ the input


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param([USER], [USER], id="without a type"),
        pytest.param(
            [{"type": "message", "role": "developer", "content": "x"}, {"role": "system", "content": "y"}],
            [{"role": "developer", "content": "x"}, {"role": "system", "content": "y"}],
            id="roles",
        ),
        pytest.param([{"role": "user"}], [{"role": "user", "content": ""}], id="no content"),
        pytest.param([{"role": "user", "content": None}], [{"role": "user", "content": ""}], id="null content"),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            [{"role": "user", "content": "a\n\nb"}],
            id="texts are joined",
        ),
        pytest.param([said("yes"), USER], [{"role": "assistant", "content": "yes"}, USER], id="an earlier answer"),
        pytest.param(
            [said("", content=[{"type": "refusal", "refusal": "no"}]), USER],
            [{"role": "assistant", "content": "no"}, USER],
            id="an earlier refusal",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_text", "text": "what?"}, IMAGE]}],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    ],
                }
            ],
            id="an image stays a part, so that the model can refuse it",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_file", "file_data": "data:,"}]}],
            [{"role": "user", "content": [{"type": "input_file"}]}],
            id="a file stays a part without its content",
        ),
    ],
)
def test_messages_are_read(items: list[dict[str, Any]], expected: list[Any]) -> None:
    assert messages(*items) == expected


def called(*calls: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]


def test_the_items_of_one_turn_become_one_message() -> None:
    second = {
        "type": "function_call",
        "id": "fc_2",
        "call_id": "c2",
        "name": "g",
        "arguments": "",
        "status": "completed",
    }
    assert messages(USER, item_of_reasoning("one", "two"), said("let me see"), CALL, second, OUTPUT) == [
        USER,
        {
            "role": "assistant",
            "content": "let me see",
            "reasoning_content": "one\n\ntwo",
            "tool_calls": called(("c1", "f", '{"a":1}'), ("c2", "g", "{}")),
        },
        {"role": "tool", "content": "warm", "tool_call_id": "c1", "name": "f"},
    ]


def test_a_new_turn_begins_with_reasoning_or_text() -> None:
    assert messages(USER, CALL, OUTPUT, item_of_reasoning("so"), CALL, OUTPUT, said("a"), said("b"), USER) == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": called(("c1", "f", '{"a":1}'))},
        {"role": "tool", "content": "warm", "tool_call_id": "c1", "name": "f"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "so",
            "tool_calls": called(("c1", "f", '{"a":1}')),
        },
        {"role": "tool", "content": "warm", "tool_call_id": "c1", "name": "f"},
        {"role": "assistant", "content": "a\n\nb"},
        USER,
    ]


def test_reasoning_before_a_call_begins_a_turn_even_behind_a_text() -> None:
    def calls(*items: dict[str, Any]) -> list[int]:
        return [len(message.get("tool_calls", ())) for message in messages(USER, *items)]

    assert calls(said("a"), CALL) == [0, 1]
    assert calls(said("a"), item_of_reasoning("so"), CALL) == [0, 0, 1]
    assert calls(CALL, said("a"), CALL) == [0, 1, 1]
    assert calls(CALL, item_of_reasoning("so")) == [0, 1, 0]
    found = messages(said("a"), item_of_reasoning("so"), CALL)
    assert found[-1]["reasoning_content"] == "so"


@pytest.mark.parametrize(
    ("item", "reasoning"),
    [
        (item_of_reasoning(content=[{"type": "reasoning_text", "text": "raw"}]), "raw"),
        (item_of_reasoning("summary", content=[{"type": "reasoning_text", "text": "raw"}]), "raw"),
        (item_of_reasoning("summary", content=[]), "summary"),
        (item_of_reasoning("summary", encrypted_content="gAAA"), "summary"),
    ],
)
def test_reasoning_is_in_the_content_or_in_the_summary(item: dict[str, Any], reasoning: str) -> None:
    assert messages(item, said("x"), USER)[0] == {"role": "assistant", "content": "x", "reasoning_content": reasoning}


@pytest.mark.parametrize("fields", [{"include": ["reasoning.encrypted_content"]}, {"store": False}])
def test_reasoning_that_a_client_only_carried_comes_back(fields: dict[str, Any]) -> None:
    request = decode(**fields)
    collector = request.collector(unique="1", created=7)
    for event in (
        ReasoningDelta("hm"),
        TextDelta("hi"),
        Finished(reasons=(FinishReason.STOP,), usage=Usage(prompt_tokens=1, completion_tokens=2)),
    ):
        collector.add(event)
    reasoning, answer = json.loads(collector.body())["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "hm"}]
    for shown in (reasoning, reasoning | {"summary": []}):
        assert messages(shown, answer, USER) == [
            {"role": "assistant", "content": "hi", "reasoning_content": "hm"},
            USER,
        ]


def test_reasoning_that_cannot_be_read_is_left_out() -> None:
    item = item_of_reasoning(encrypted_content="gAAA")
    assert messages(USER, item, said("x"), USER) == [USER, {"role": "assistant", "content": "x"}, USER]


def test_reasoning_that_nothing_followed_is_a_turn_of_its_own() -> None:
    turn = {"role": "assistant", "content": "", "reasoning_content": "hm"}
    assert messages(USER, item_of_reasoning("hm"), USER) == [USER, turn, USER]
    assert messages(USER, item_of_reasoning("hm")) == [USER, turn]


@pytest.mark.parametrize(
    ("output", "content"),
    [
        ("warm", "warm"),
        ("", ""),
        ([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "a\n\nb"),
        ({"a": [1, 2.50, "é"]}, '{"a":[1,2.5,"é"]}'),
        ([1, 2], "[1,2]"),
        ([{"type": "resource", "text": "x"}], '[{"type":"resource","text":"x"}]'),
        (0, "0"),
        (False, "false"),
    ],
)
def test_the_output_of_a_function_is_a_text_or_json(output: Any, content: str) -> None:
    assert messages(CALL, OUTPUT | {"output": output})[-1]["content"] == content


def test_the_output_of_an_unknown_call_has_no_name() -> None:
    assert messages(OUTPUT) == [{"role": "tool", "content": "warm", "tool_call_id": "c1"}]


@pytest.mark.parametrize(
    ("last", "goes_on"),
    [
        (said("half", status="incomplete"), True),
        (said("half", status="in_progress"), True),
        (said("whole"), False),
        ({"role": "assistant", "content": "whole"}, False),
        (USER | {"type": "message", "status": "in_progress"}, False),
        (CALL | {"status": "incomplete"}, False),
    ],
)
def test_only_a_message_that_was_cut_is_continued_unless_the_request_says_otherwise(
    last: dict[str, Any], *, goes_on: bool
) -> None:
    assert decode(input=[USER, last]).task.continue_final_message is goes_on
    for said_so in (True, False):
        request = decode(input=[USER, last], continue_final_message=said_so)
        assert request.task.continue_final_message is said_so


REFUSED_INPUTS: dict[str, tuple[Any, str, str]] = {
    "no input": ([], "input", "length 1"),
    "a number": (7, "input", "Expected `str | array`"),
    "a reference": ([USER, {"type": "item_reference", "id": "msg_1"}], "input[1]", "no item is kept"),
    "a reference without a type": ([{"id": "msg_1"}], "input[0]", "no item is kept"),
    "nothing": ([{}], "input[0].type", "required"),
    "an unknown item": ([{"type": "computer_call"}], "input[0].type", "'computer_call'"),
    "a custom call": (
        [{"type": "custom_tool_call", "call_id": "c", "name": "f"}],
        "input[0].type",
        "'custom_tool_call'",
    ),
    "an unknown role": ([{"role": "banana", "content": "x"}], "input[0].role", "'banana'"),
    "no role": ([{"type": "message", "content": "x"}], "input[0].role", "expected one of"),
    "an unknown part": ([{"role": "user", "content": [{"type": "x"}]}], "input[0].content[0].type", "'x'"),
    "no text": ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text", "required"),
    "no refusal": ([said("", content=[{"type": "refusal"}])], "input[0].content[0].refusal", "required"),
    "a kept file": (
        [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}],
        "input[0].content[0].file_id",
        "no file is kept",
    ),
    "a remote image": (
        [{"role": "user", "content": [IMAGE | {"image_url": "https://example.com/a.png"}]}],
        "input[0].content[0].image_url",
        "nothing is fetched",
    ),
    "no image": ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0].image_url", "required"),
    "a call without a name": ([CALL | {"name": ""}], "input[0].name", "required"),
    "a call without an id": ([CALL | {"call_id": None}], "input[0].call_id", "required"),
    "arguments that are no text": ([CALL | {"arguments": {}}], "input[0].arguments", "Expected `str | null`"),
    "an output without an id": ([OUTPUT | {"call_id": None}], "input[0].call_id", "required"),
    "an output without output": ([{"type": "function_call_output", "call_id": "c1"}], "input[0].output", "required"),
}


@pytest.mark.parametrize("case", REFUSED_INPUTS)
def test_an_input_that_no_model_can_be_shown_is_refused_by_its_path(case: str) -> None:
    value, param, message = REFUSED_INPUTS[case]
    found, text = refused(input=value)
    assert found == param
    assert message in text


def test_the_input_is_required() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_raw(b'{"model":"a/b"}')
    assert caught.value.param == "input"


def test_a_deep_input_is_refused() -> None:
    deep = json.loads("[" * 200 + "]" * 200)
    with pytest.raises(MalformedJson) as caught:
        decode(input=[CALL, OUTPUT | {"output": deep}])
    assert caught.value.param == "input"


# ------------------------------------------------------------------------------------------------------------ the tools


@pytest.mark.parametrize("tool", [FLAT, NESTED])
def test_a_function_may_be_flat_or_nested(tool: dict[str, Any]) -> None:
    request = decode(tools=[tool])
    assert request.task.tools == (NESTED,)
    assert request.task.tool_choice == ToolChoice()
    assert json.loads(bytes(request.response.tools)) == [FLAT | {"description": None, "strict": False}]


def test_a_function_keeps_what_the_template_and_the_grammar_read() -> None:
    more = {"description": "d", "strict": True}
    (tool,) = decode(tools=[FLAT | more]).task.tools
    assert tool == {"type": "function", "function": NESTED["function"] | more}
    assert list(tool) == ["type", "function"]
    assert list(tool["function"]) == ["name", "description", "parameters", "strict"]


OTHER = FLAT | {"name": "g"}


@pytest.mark.parametrize(
    ("choice", "expected", "offered"),
    [
        ("auto", ToolChoice(), ["f", "g"]),
        ("required", ToolChoice("required"), ["f", "g"]),
        ("none", ToolChoice(), []),
        ({"type": "function", "name": "g"}, ToolChoice("required", "g"), ["f", "g"]),
        ({"type": "function", "function": {"name": "g"}}, ToolChoice("required", "g"), ["f", "g"]),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
            ToolChoice(),
            ["g"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]},
            ToolChoice("required"),
            ["g"],
        ),
    ],
)
def test_a_choice_says_what_may_and_what_must_be_called(choice: Any, expected: ToolChoice, offered: list[str]) -> None:
    request = decode(tools=[FLAT, OTHER], tool_choice=choice)
    assert request.task.tool_choice == expected
    assert [tool["function"]["name"] for tool in request.task.tools] == offered
    assert json.loads(bytes(request.response.tool_choice)) == choice
    assert [tool["name"] for tool in json.loads(bytes(request.response.tools))] == ["f", "g"]


REFUSED_TOOLS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a hosted tool": ({"tools": [{"type": "web_search"}]}, "tools[0].type", "'web_search'"),
    "a custom tool": ({"tools": [FLAT, {"type": "custom", "name": "x"}]}, "tools[1].type", "'custom'"),
    "a remote server": ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "'mcp'"),
    "no name": ({"tools": [{"type": "function"}]}, "tools[0].name", "required"),
    "parameters that are no schema": (
        {"tools": [FLAT | {"parameters": 7}]},
        "tools[0].parameters",
        "Expected `object`",
    ),
    "too many tools": ({"tools": [FLAT] * 1025}, "tools", "length <= 1024"),
    "required without tools": ({"tool_choice": "required"}, "tool_choice", "no tools"),
    "an unknown function": ({"tools": [FLAT], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "'x'"),
    "an unknown word": ({"tools": [FLAT], "tool_choice": "banana"}, "tool_choice", "'banana'"),
    "a hosted choice": ({"tools": [FLAT], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "'web_search'"),
    "a hosted tool allowed": (
        {"tools": [FLAT], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}},
        "tool_choice.tools[0]",
        "a function",
    ),
    "a choice that is no choice": ({"tools": [FLAT], "tool_choice": 7}, "tool_choice", "Expected"),
}


@pytest.mark.parametrize("case", REFUSED_TOOLS)
def test_tools_that_cannot_be_called_here_are_refused_by_their_path(case: str) -> None:
    fields, param, message = REFUSED_TOOLS[case]
    found, text = refused(**fields)
    assert found == param
    assert message in text


# ------------------------------------------------------------------------------------------- text, reasoning, tokens


SCHEMA = {"type": "object", "required": ["a"]}


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"text": {}}, None),
        ({"text": {"format": None}}, None),
        ({"text": {"format": {"type": "text"}}}, None),
        ({"text": {"format": {"type": "json_object"}}}, Grammar("json_schema", '{"type":"object"}')),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}},
            Grammar("json_schema", '{"type":"object","required":["a"]}', "text.format"),
        ),
        ({"regex": "a+"}, Grammar("regex", "a+")),
    ],
)
def test_the_format_of_the_text_is_a_grammar(fields: dict[str, Any], grammar: Grammar | None) -> None:
    assert decode(**fields).task.grammar == grammar


THINKS = {"enable_thinking": True, "thinking": True, "thinking_mode": "enabled"}
THINKS_NOT = {"enable_thinking": False, "thinking": False, "thinking_mode": "disabled"}


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({"reasoning": {}}, {"enable_thinking": False}),
        ({"reasoning": {"effort": "none"}}, THINKS_NOT | {"reasoning_effort": "none"}),
        ({"reasoning": {"effort": "low"}}, THINKS | {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low"}, THINKS | {"reasoning_effort": "low"}),
        ({"reasoning": {"summary": "auto"}}, THINKS),
        ({"reasoning": {"generate_summary": "concise"}}, THINKS),
        ({"reasoning": {"effort": "none", "summary": "auto"}}, THINKS_NOT | {"reasoning_effort": "none"}),
        ({"reasoning": {"summary": "none"}}, {"enable_thinking": False}),
        (
            {"reasoning": {"effort": "low"}, "enable_thinking": False},
            THINKS_NOT | {"reasoning_effort": "low"},
        ),
        ({"chat_template_kwargs": {"enable_thinking": True}}, {"enable_thinking": True}),
    ],
)
def test_a_model_thinks_if_reasoning_is_asked_for(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    assert decode(**fields).task.template_kwargs == kwargs


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, None),
        ({"top_logprobs": 0}, None),
        ({"top_logprobs": 3}, 3),
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"include": ["reasoning.encrypted_content", "file_search_call.results"]}, None),
    ],
)
def test_log_probabilities_come_if_they_are_included_or_counted(fields: dict[str, Any], count: int | None) -> None:
    assert decode(**fields).task.top_logprobs == count


def test_json_in_several_lines_becomes_a_part_of_one_line() -> None:
    choice = {"type": "function", "name": "f"}
    fields = {"model": "a/b", "input": "hi", "tools": [FLAT], "tool_choice": choice}
    fields["text"] = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
    encoder = decode_raw(json.dumps(fields, indent=2).encode()).encoder(unique="1", created=7)
    created, in_progress, end = encoder.opening().split(b"\n\n")
    assert (len(created.splitlines()), len(in_progress.splitlines()), end) == (2, 2, b"")


# ------------------------------------------------------------------------------------------------------------- refusals


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "background": ({"background": True}, "background"),
    "conversation": ({"conversation": "conv_1"}, "conversation"),
    "prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    "compaction": ({"context_management": [{"type": "compaction"}]}, "context_management"),
    "moderation": ({"moderation": {"model": "m"}}, "moderation"),
    "generate": ({"generate": False}, "generate"),
    "messages": ({"messages": [USER]}, "messages"),
    "max_tokens": ({"max_tokens": 7}, "max_tokens"),
    "n": ({"n": 2}, "n"),
    "stop": ({"stop": ["x"]}, "stop"),
    "logprobs": ({"logprobs": True}, "logprobs"),
    "another server's": ({"best_of": 2}, "best_of"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
    "too many tokens": ({"max_output_tokens": 2**64}, "max_output_tokens"),
    "too many rivals": ({"top_logprobs": 21}, "top_logprobs"),
    "unknown include": ({"include": ["x"]}, "include"),
    "verbosity": ({"text": {"verbosity": "x"}}, "text.verbosity"),
    "format": ({"text": {"format": {"type": "banana"}}}, "text.format.type"),
    "no schema": ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    "two shapes": ({"text": {"format": {"type": "json_object"}}, "regex": "a"}, "text.format"),
    "summary": ({"reasoning": {"summary": "x"}}, "reasoning.summary"),
    "mode": ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    "obfuscation": ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
    "stream options": ({"stream_options": {"include_usage": True}}, "stream_options"),
    "truncation": ({"truncation": "x"}, "truncation"),
    "metadata": ({"metadata": {"k": "v" * 513}}, "metadata"),
    "keys of metadata": ({"metadata": {"k" * 65: "v"}}, "metadata"),
    "much metadata": ({"metadata": {f"k{i}": "v" for i in range(17)}}, "metadata"),
    "temperature": ({"temperature": 101}, "temperature"),
    "kwargs": ({"chat_template_kwargs": 7}, "chat_template_kwargs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_effect_here_is_refused_by_name(case: str) -> None:
    fields, param = REFUSED[case]
    assert (refused(**fields)[0] or "").startswith(param)


def test_no_field_of_a_chat_is_ignored() -> None:
    known = {*ResponsesBody.__struct_fields__, *openai_responses._ELSEWHERE, *WITHOUT_EFFECT}
    assert {*ChatCompletionBody.__struct_fields__} - known == set()


def test_an_earlier_response_is_refused_with_the_code_of_the_contract() -> None:
    with pytest.raises(ChainedConversation) as caught:
        decode(previous_response_id="resp_1")
    assert (caught.value.code, caught.value.param) == ("chained_conversation_not_supported", "previous_response_id")


def test_a_body_that_is_not_json_is_refused() -> None:
    with pytest.raises(MalformedJson):
        decode_raw(b"{")
    with pytest.raises(UnsupportedMediaType):
        openai_responses.decode(b"{}", headers={"content-type": "text/plain"}, principal=None)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["type", "role", "content", "status", "summary", "id", "call_id", "name", "arguments", "output"])
ITEMS = st.lists(
    st.dictionaries(
        KEYS,
        ANY_JSON
        | st.sampled_from(["message", "reasoning", "function_call", "function_call_output", "user", "assistant"]),
        max_size=5,
    ),
    max_size=4,
)


@given(st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "include", "metadata"]), ITEMS | ANY_JSON)
def test_no_value_is_a_crash(field: str, value: Any) -> None:
    with suppress(InvalidRequest):
        task = decode(**{field: value}).task
        assert all(isinstance(message["role"], str) for message in task.messages)
