import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import ChatRequest, Grammar, Principal, SamplingParams, ToolChoice, UnreadArray, UnreadObject
from neuron_lib.wire import openai_chat
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType
from neuron_lib.wire.openai_chat import ChatCompletionRequest

HELLO = {"role": "user", "content": "hello"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def decode_raw(raw: bytes, *, include_thinking: bool = False) -> ChatCompletionRequest:
    headers = {"content-type": "application/json"} | ({"x-include-thinking": "1"} if include_thinking else {})
    return openai_chat.decode(raw, headers=headers, principal=None)


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "a/b", "messages": [HELLO]} | fields).encode()


def decode(**fields: Any) -> ChatCompletionRequest:
    return decode_raw(encoded(**fields))


def schema_format(**json_schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": json_schema}


def contents(*messages: dict[str, Any]) -> list[Any]:
    return [message.get("content", "absent") for message in decode(messages=messages).task.messages]


def test_the_smallest_request_leaves_every_choice_open() -> None:
    call = decode()
    assert call.task == ChatRequest(
        model_id="a/b", messages=(HELLO,), template_kwargs={"enable_thinking": False}, whole=True
    )
    assert (call.task.model_id, call.stream) == ("a/b", False)


def test_every_field_arrives() -> None:
    tool = TOOL | {"strict": True}
    call = openai_chat.decode(
        json.dumps(
            {
                "model": "a/b",
                "messages": [HELLO],
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 40,
                "min_p": 0.05,
                "seed": 2**64 - 1,
                "repetition_penalty": 1.1,
                "repeat_last_n": -1,
                "frequency_penalty": -2,
                "presence_penalty": 2,
                "max_tokens": 7,
                "stop": ["a", "b"],
                "typical_p": 0.8,
                "top_n_sigma": 1.5,
                "xtc_probability": 0.5,
                "xtc_threshold": 0.2,
                "dry_multiplier": 0.8,
                "dry_base": 2,
                "dry_allowed_length": 3,
                "dry_penalty_last_n": 512,
                "dry_sequence_breakers": ["\n", "###"],
                "logit_bias": {"0": -100, "49151": 0.5},
                "min_tokens": 4,
                "ignore_eos": True,
                "n": 3,
                "logprobs": True,
                "top_logprobs": 5,
                "regex": "[a-z]+",
                "stream": True,
                "tools": [tool],
                "chat_template_kwargs": {"x": 1},
                "some_future_field": [None],
            }
        ).encode(),
        headers={"content-type": "application/json; charset=utf-8", "x-include-thinking": "yes"},
        principal=Principal("acc", "key"),
    )
    assert call.stream
    assert not call.task.whole
    assert call.task == ChatRequest(
        model_id="a/b",
        messages=(HELLO,),
        tools=(tool,),
        template_kwargs={"enable_thinking": True, "x": 1},
        sampling=SamplingParams(
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            seed=2**64 - 1,
            repetition_penalty=1.1,
            repeat_last_n=-1,
            frequency_penalty=-2.0,
            presence_penalty=2.0,
            typical_p=0.8,
            top_n_sigma=1.5,
            xtc_probability=0.5,
            xtc_threshold=0.2,
            dry_multiplier=0.8,
            dry_base=2.0,
            dry_allowed_length=3,
            dry_penalty_last_n=512,
            dry_sequence_breakers=("\n", "###"),
            logit_bias={0: -100.0, 49151: 0.5},
            min_tokens=4,
            ignore_eos=True,
        ),
        max_tokens=7,
        stop=("a", "b"),
        include_thinking=True,
        choices=3,
        top_logprobs=5,
        grammar=Grammar("regex", "[a-z]+"),
        principal=Principal("acc", "key"),
    )


def test_null_means_absent_everywhere() -> None:
    names = (
        "temperature top_p top_k min_p seed repetition_penalty repeat_last_n frequency_penalty presence_penalty "
        "typical_p top_n_sigma xtc_probability xtc_threshold dry_multiplier dry_base dry_allowed_length "
        "dry_penalty_last_n dry_sequence_breakers logit_bias min_tokens ignore_eos max_completion_tokens max_tokens "
        "stop n logprobs top_logprobs response_format regex grammar stream tools chat_template_kwargs"
    )
    assert decode(**dict.fromkeys(names.split())) == decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", -1),
        ("temperature", -0.0),
        ("temperature", 100),
        ("top_p", 1),
        ("top_k", 0),
        ("top_k", 2**31 - 1),
        ("min_p", 0),
        ("min_p", 1),
        ("seed", 0),
        ("repetition_penalty", 100),
        ("repeat_last_n", 0),
        ("max_tokens", 1),
        ("max_tokens", 2**64 - 1),
        ("n", 1),
        ("n", 128),
        ("typical_p", 1),
        ("top_n_sigma", -1),
        ("top_n_sigma", 100),
        ("xtc_probability", 0),
        ("xtc_probability", 1),
        ("xtc_threshold", 0),
        ("xtc_threshold", 1),
        ("dry_multiplier", 0),
        ("dry_multiplier", 100),
        ("dry_base", 1),
        ("dry_base", 100),
        ("dry_allowed_length", 0),
        ("dry_allowed_length", 1024),
        ("dry_penalty_last_n", -1),
        ("dry_penalty_last_n", 2**31 - 1),
        ("dry_sequence_breakers", []),
        ("dry_sequence_breakers", ["x" * 64] * 16),
        ("logit_bias", {}),
        ("logit_bias", {"0": -100, "2147483647": 100}),
        ("logit_bias", {str(token): 1 for token in range(1024)}),
        ("logit_bias", []),
        ("logit_bias", [[token, 1] for token in range(1024)]),
        ("stop_token_ids", []),
        ("stop_token_ids", [2**31 - 1] * 64),
        ("min_tokens", 0),
        ("min_tokens", 2**31 - 1),
        ("ignore_eos", False),
        ("logprobs", False),
        ("regex", "x" * (256 << 10)),
        ("grammar", "x" * (256 << 10)),
        ("response_format", {"type": "text"}),
        ("stop", []),
        ("stop", "x" * 1024),
        ("stop", ["x"] * 16),
        ("messages", [HELLO] * 10_000),
        ("model", "x" * 1024),
        ("tools", []),
    ],
)
def test_values_at_their_bounds_are_accepted(name: str, value: object) -> None:
    decode(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 100.1),
        ("temperature", "0.7"),
        ("temperature", True),
        ("temperature", 10**400),
        ("top_p", -0.1),
        ("top_p", 1.01),
        ("top_p", -1),
        ("top_k", -2),
        ("top_k", 2**31),
        ("top_k", 5.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("seed", -2),
        ("seed", 2**64),
        ("seed", 2**70),
        ("seed", 1.0),
        ("repetition_penalty", 0),
        ("repetition_penalty", 101),
        ("repeat_last_n", -2),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("max_tokens", 0),
        ("max_tokens", -2),
        ("n_predict", -2),
        ("max_completion_tokens", -2),
        ("max_tokens", 2**64),
        ("max_completion_tokens", 2**64),
        ("max_tokens", "5"),
        ("max_tokens", 5.0),
        ("max_tokens", True),
        ("max_completion_tokens", 0),
        ("n", 0),
        ("n", 129),
        ("n", 10**6),
        ("n", 1.0),
        ("typical_p", 0),
        ("typical_p", 1.01),
        ("typical_p", "0.5"),
        ("top_n_sigma", -1.1),
        ("top_n_sigma", 101),
        ("top_n_sigma", True),
        ("xtc_probability", -0.1),
        ("xtc_probability", 1.1),
        ("xtc_threshold", -0.1),
        ("xtc_threshold", 1.1),
        ("xtc_threshold", []),
        ("dry_multiplier", -0.1),
        ("dry_multiplier", 100.1),
        ("dry_base", 0.9),
        ("dry_base", 101),
        ("dry_base", "2"),
        ("dry_allowed_length", -1),
        ("dry_allowed_length", 1025),
        ("dry_allowed_length", 2.0),
        ("dry_penalty_last_n", -2),
        ("dry_penalty_last_n", 2**31),
        ("dry_sequence_breakers", "\n"),
        ("dry_sequence_breakers", ["x"] * 17),
        ("logit_bias", "1"),
        ("logit_bias", {str(token): 1 for token in range(1025)}),
        ("logit_bias", [[token, 1] for token in range(1025)]),
        ("stop_token_ids", 1),
        ("stop_token_ids", [1] * 65),
        ("min_tokens", -1),
        ("min_tokens", 2**31),
        ("min_tokens", True),
        ("ignore_eos", 1),
        ("ignore_eos", "true"),
        ("logprobs", 1),
        ("logprobs", 5),
        ("top_logprobs", -1),
        ("top_logprobs", 21),
        ("top_logprobs", True),
        ("top_logprobs", 3),
        ("response_format", "json_object"),
        ("response_format", []),
        ("regex", {}),
        ("regex", "x" * (256 << 10) + "x"),
        ("grammar", {"type": "regex", "value": "x"}),
        ("grammar", "é" * (128 << 10) + "x"),
        ("stop", 3),
        ("stop", "x" * 1025),
        ("stop", ["x"] * 17),
        ("stream", "true"),
        ("stream", 1),
        ("tools", {}),
        ("chat_template_kwargs", []),
        ("messages", []),
        ("messages", {}),
        ("messages", None),
        ("messages", [HELLO] * 10_001),
        ("model", ""),
        ("model", None),
        ("model", 3),
        ("model", "x" * 1025),
    ],
)
def test_values_beyond_their_bounds_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**{name: value})
    assert type(caught.value) is InvalidRequest
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": [None]}, "stop[0]"),
        ({"dry_sequence_breakers": ["a", ""]}, "dry_sequence_breakers[1]"),
        ({"dry_sequence_breakers": ["a", "b", "x" * 65]}, "dry_sequence_breakers[2]"),
        ({"dry_sequence_breakers": [1]}, "dry_sequence_breakers[0]"),
        ({"logit_bias": {"1": 1, "7": 100.1}}, "logit_bias.7"),
        ({"logit_bias": {"7": -100.1}}, "logit_bias.7"),
        ({"logit_bias": {"7": "1"}}, "logit_bias.7"),
        ({"logit_bias": {"7": True}}, "logit_bias.7"),
        ({"logit_bias": {"7": None}}, "logit_bias.7"),
        ({"logit_bias": {"7": 10**400}}, "logit_bias.7"),
        ({"logit_bias": [[1]]}, "logit_bias[0]"),
        ({"logit_bias": [[1, 1, 1]]}, "logit_bias[0]"),
        ({"logit_bias": [1]}, "logit_bias[0]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [1, 2**31]}, "stop_token_ids[1]"),
        ({"stop_token_ids": ["</s>"]}, "stop_token_ids[0]"),
        ({"logit_bias": [[7, None]]}, "logit_bias.7"),
        ({"logit_bias": [[7, True]]}, "logit_bias.7"),
        ({"logit_bias": [[-7, 1]]}, "logit_bias.-7"),
        ({"logit_bias": [["Hello", -0.5]]}, "logit_bias.Hello"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1"),
        ({"logit_bias": {"07": 1}}, "logit_bias.07"),
        ({"logit_bias": {"1.0": 1}}, "logit_bias.1.0"),
        ({"logit_bias": {"": 1}}, "logit_bias."),
        ({"logit_bias": {"٣": 1}}, "logit_bias.٣"),
        ({"logit_bias": {"2147483648": 1}}, "logit_bias.2147483648"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias." + "9" * 32),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": schema_format()}, "response_format.json_schema.schema"),
        ({"response_format": schema_format(schema=None)}, "response_format.json_schema.schema"),
        ({"response_format": schema_format(schema="{}")}, "response_format.json_schema.schema"),
        ({"response_format": schema_format(schema=[])}, "response_format.json_schema.schema"),
        ({"response_format": schema_format(schema={"maximum": 2**64})}, "response_format.json_schema.schema"),
        ({"response_format": schema_format(schema={"const": "x" * (256 << 10)})}, "response_format"),
        ({"tools": [TOOL, "f"]}, "tools[1]"),
        ({"tools": [TOOL | {"x": 2**64}]}, "tools"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [HELLO, {"role": ""}]}, "messages[1].role"),
        ({"messages": [{"role": None}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "x", "text": {}}]}]}, "messages[0].content[0].text"),
        ({"messages": [HELLO, {"role": "banana"}]}, "messages[1].role"),
        ({"messages": [HELLO | {"tool_calls": 5}]}, "messages[0].tool_calls"),
        ({"messages": [HELLO | {"tool_calls": {"a": 1}}]}, "messages[0].tool_calls"),
        ({"messages": [HELLO | {"tool_calls": [None]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [HELLO | {"tool_calls": [{"function": "f"}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [HELLO | {"tool_calls": [{"function": {}}]}]}, "messages[0].tool_calls[0].function.name"),
        ({"messages": [HELLO | {"reasoning_content": ["x"]}]}, "messages[0].reasoning_content"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": "yes"}},
            "stream_options.continuous_usage_stats",
        ),
        ({"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "repeat_penalty"),
        ({"stop": ["a"] * 9, "stop_sequences": ["b"] * 9}, "stop_sequences"),
        ({"documents": ["text"]}, "documents[0]"),
    ],
)
def test_a_fault_inside_a_value_is_named_by_its_path(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "text"}, "regex": "a"}, Grammar("regex", "a")),
        ({"response_format": {"type": "json_object"}}, Grammar("json_schema", '{"type":"object"}')),
        (
            {"response_format": schema_format(name="n", strict=True, schema={"type": "object", "b": 1, "a": [2.5]})},
            Grammar("json_schema", '{"type":"object","b":1,"a":[2.5]}'),
        ),
        ({"response_format": schema_format(schema={})}, Grammar("json_schema", "{}")),
        ({"response_format": schema_format(schema=True)}, Grammar("json_schema", "true")),
        ({"grammar": 'start: "é"'}, Grammar("lark", 'start: "é"')),
    ],
)
def test_the_shape_of_a_reply_is_asked_for_in_three_ways(fields: dict[str, Any], grammar: Grammar | None) -> None:
    assert decode(**fields).task.grammar == grammar


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "response_format and regex"),
        ({"regex": "a", "grammar": "start: A"}, "regex and grammar"),
        ({"response_format": schema_format(schema={}), "grammar": "a"}, "response_format and grammar"),
    ],
)
def test_a_reply_has_one_shape_at_most(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidRequest, match=names) as caught:
        decode(**fields)
    assert caught.value.param == names.rsplit(maxsplit=1)[-1]


def test_a_schema_has_a_bounded_depth() -> None:
    deep: dict[str, Any] = {}
    for _ in range(120):
        deep = {"not": deep}
    with pytest.raises(MalformedJson) as caught:
        decode(response_format=schema_format(schema=deep))
    assert caught.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("fields", "top_logprobs"),
    [
        ({}, None),
        ({"logprobs": False}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_alternatives_are_counted_only_where_log_probabilities_are_wanted(
    fields: dict[str, Any], top_logprobs: int | None
) -> None:
    assert decode(**fields).task.top_logprobs == top_logprobs


NUMBERS = (
    "temperature top_p top_k min_p seed repetition_penalty repeat_last_n frequency_penalty presence_penalty typical_p "
    "top_n_sigma xtc_probability xtc_threshold dry_multiplier dry_base dry_allowed_length dry_penalty_last_n "
    "min_tokens max_tokens n top_logprobs"
)


@pytest.mark.parametrize("name", NUMBERS.split())
@pytest.mark.parametrize(
    ("literal", "is_json"),
    [(b"NaN", False), (b"Infinity", False), (b"1e999", True), (b"-1e999", True), (b'"1"', True), (b"true", True)],
)
def test_what_is_no_number_is_refused(name: str, literal: bytes, *, is_json: bool) -> None:
    raw = encoded()[:-1] + b',"' + name.encode() + b'":' + literal + b"}"
    with pytest.raises(InvalidRequest) as caught:
        decode_raw(raw)
    assert isinstance(caught.value, MalformedJson) is not is_json
    assert caught.value.param == (name if is_json else None)


@pytest.mark.parametrize("url", ["https://x/y.png", "http://x", "file:///etc/passwd", "ftp://x", "", " data:x", "/x"])
def test_an_image_that_would_have_to_be_fetched_is_refused(url: str) -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(InvalidRequest, match="only data: URLs") as caught:
        decode(messages=[HELLO, {"role": "user", "content": parts}])
    assert caught.value.param == "messages[1].content[1].image_url.url"


@pytest.mark.parametrize(
    ("fields", "summary"),
    [
        ({"messages": [{"role": "secret"}]}, "messages[0].role: expected one of"),
        ({"response_format": {"type": "secret"}}, "response_format.type: expected one of"),
        ({"logit_bias": {"secret": 1}}, "logit_bias: a key is not the id of a token"),
        ({"logit_bias": {"7": "secret"}}, "logit_bias: Expected `float`"),
        ({"tools": [{"type": "secret"}]}, "tools[0].type: only functions"),
        ({"temperature": "secret"}, "temperature: Expected `float | null`, got `str`"),
        ({"tool_choice": "secret"}, "tool_choice: "),
    ],
)
def test_the_log_is_told_the_place_and_nothing_that_the_client_wrote(fields: dict[str, Any], summary: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    assert caught.value.log_message.startswith(summary)
    assert "secret" not in caught.value.log_message


def test_lists_of_parts_stay_lists_whatever_they_are_of() -> None:
    parts = [
        {"type": "text", "text": "one", "cache_control": {}},
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "document", "source": {"type": "text", "data": "x"}},
        {"type": "refusal", "refusal": "no"},
        {"type": "input_audio", "input_audio": {}},
        {"type": "of the future", "text": None},
    ]
    assert contents({"role": "user", "content": parts}, {"role": "user", "content": []}) == [parts, []]


@pytest.mark.parametrize(
    "part",
    [
        IMAGE | {"detail": "low"},
        {"type": "input_image", "image_url": "data:x"},
        {"type": "image_url"},
        {"type": "image"},
    ],
)
def test_an_image_stays_for_a_model_that_may_see_it(part: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": "what is this?"}, part]
    assert contents({"role": "user", "content": parts}) == [parts]


def test_other_content_and_other_keys_of_a_message_stay_as_they_are() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "name": None, "x": {"y": [1.5]}}
    assert decode(messages=[message, {"role": "tool"}]).task.messages == (message, {"role": "tool"})


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_openai_is_known(role: str) -> None:
    decode(messages=[{"role": role, "content": "x"}])


def test_what_only_the_template_needs_is_not_decoded() -> None:
    request = decode(tools=[TOOL]).task
    assert isinstance(request.messages, UnreadArray)
    assert isinstance(request.tools, UnreadArray)
    assert isinstance(request.template_kwargs, UnreadObject)


def test_max_completion_tokens_wins() -> None:
    assert decode(max_tokens=5, max_completion_tokens=6).task.max_tokens == 6
    assert decode(max_completion_tokens=6).task.max_tokens == 6


def test_one_stop_string_is_a_list_of_one() -> None:
    assert decode(stop="END").task.stop == ("END",)


@pytest.mark.parametrize("include_thinking", [True, False])
def test_thinking_follows_the_flag_unless_the_request_decides(include_thinking: bool) -> None:  # noqa: FBT001
    def enabled(**fields: Any) -> Any:
        call = decode_raw(encoded(**fields), include_thinking=include_thinking)
        return call.task.template_kwargs["enable_thinking"]

    assert enabled() is include_thinking
    assert enabled(chat_template_kwargs={"other": 1}) is include_thinking
    assert enabled(chat_template_kwargs={"enable_thinking": not include_thinking}) is not include_thinking
    assert enabled(enable_thinking=None) is include_thinking
    assert enabled(enable_thinking=not include_thinking) is not include_thinking
    assert (
        enabled(enable_thinking=not include_thinking, chat_template_kwargs={"enable_thinking": include_thinking})
        is include_thinking
    )


@pytest.mark.parametrize("name", ["messages", "tools", "chat_template_kwargs"])
def test_free_form_fields_have_a_bounded_depth(name: str) -> None:
    deep: Any = {"role": "user"}
    for _ in range(120):
        deep = {"role": "user", "a": deep} | TOOL
    with pytest.raises(MalformedJson) as caught:
        decode(**{name: deep if name == "chat_template_kwargs" else [deep]})
    assert caught.value.param == name


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (rb"\ud83d\ude00", "😀"),
        (rb"nul\u0000", "nul\x00"),
        (rb"<|im_end|>\r\n", "<|im_end|>\r\n"),
        (rb"\ud800", None),
        (rb"\ude00 x", None),
        (b"\xff", None),
    ],
)
def test_text_is_whole_unicode_or_no_text(text: bytes, accepted: str | None) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"' + text + b'"}]}'
    if accepted is None:
        with pytest.raises(MalformedJson):
            decode_raw(raw)
    else:
        assert decode_raw(raw).task.messages[0]["content"] == accepted


def sampling(**fields: Any) -> SamplingParams:
    return decode(**fields).task.sampling


def test_the_sentinels_of_other_servers_mean_here_what_they_mean_there() -> None:
    assert sampling(seed=-1) == SamplingParams()
    assert sampling(top_k=-1) == SamplingParams(top_k=0)
    assert sampling(top_p=0) == sampling(top_p=0.0, top_k=50) == SamplingParams(top_k=1)
    assert sampling(top_p=1) == SamplingParams(top_p=1.0)
    assert decode(max_tokens=-1) == decode(max_completion_tokens=-1) == decode(n_predict=-1) == decode()
    assert decode(max_tokens=7, max_completion_tokens=-1).task.max_tokens == 7
    assert decode(stop="") == decode(stop=[""]) == decode(stop=[]) == decode(stop_sequences=[""]) == decode()
    assert decode(stop=["", "a"]).task.stop == ("a",)
    assert decode(top_logprobs=0) == decode(top_logprobs=0, logprobs=False) == decode()


def test_a_parameter_has_the_names_of_other_servers() -> None:
    assert decode(n_predict=5).task.max_tokens == 5
    assert decode(n_predict=5, max_tokens=6).task.max_tokens == 6
    assert sampling(repeat_penalty=1.2) == sampling(repetition_penalty=1.2, repeat_penalty=1.2)
    assert sampling(repeat_penalty=1.2).repetition_penalty == 1.2
    assert decode(stop="a", stop_sequences=["b"]).task.stop == ("a", "b")


def test_the_template_is_told_what_is_meant_for_it_and_its_own_arguments_count_most() -> None:
    document = {"title": "t", "text": "x"}
    call = decode(
        add_generation_prompt=False,
        reasoning_effort='hi"gh',
        enable_thinking=False,
        documents=[document],
        chat_template_kwargs={"add_generation_prompt": True, "x": "}"},
    )
    assert call.task.template_kwargs == {
        "enable_thinking": False,
        "thinking": False,
        "thinking_mode": "disabled",
        "reasoning_effort": 'hi"gh',
        "documents": [document],
        "add_generation_prompt": True,
        "x": "}",
    }
    assert decode(chat_template_kwargs={}).task.template_kwargs == {"enable_thinking": False}
    raw = encoded()[:-1] + b',"chat_template_kwargs":{ }}'
    assert decode_raw(raw).task.template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize("tool_choice", [None, "auto", {"type": "auto"}])
def test_tools_are_offered_by_default(tool_choice: object) -> None:
    assert decode(tools=[TOOL], tool_choice=tool_choice).task.tools == (TOOL,)
    assert not decode(tools=[], tool_choice=tool_choice).task.tools


@pytest.mark.parametrize("tool_choice", ["none", {"type": "none"}])
def test_no_tool_choice_leaves_the_tools_out(tool_choice: object) -> None:
    assert decode(tools=[TOOL], tool_choice=tool_choice) == decode(tool_choice=tool_choice) == decode()


@pytest.mark.parametrize("tools", [[TOOL], [], None])
@pytest.mark.parametrize("tool_choice", ["banana", "", {}, {"type": "function", "function": {"name": "other"}}])
def test_a_tool_choice_that_cannot_be_kept_is_refused(tool_choice: object, tools: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(tools=tools, tool_choice=tool_choice)
    assert (caught.value.param or "").startswith("tool_choice")


def test_what_is_said_of_calls_reaches_the_task() -> None:
    assert decode(tools=[TOOL]).task.tool_choice == ToolChoice()
    required = decode(tools=[TOOL], tool_choice="required", parallel_tool_calls=False).task
    assert required.tool_choice == ToolChoice("required", parallel=False)
    one = {"type": "function", "function": {"name": "f"}}
    assert decode(tools=[TOOL], tool_choice=one).task.tool_choice == ToolChoice("required", "f")


def test_what_is_said_of_reasoning_reaches_the_task_and_the_template() -> None:
    task = decode(thinking_budget_tokens=9, reasoning_effort="low").task
    assert task.reasoning_budget == 9
    assert task.template_kwargs == {
        "enable_thinking": True,
        "thinking": True,
        "thinking_mode": "enabled",
        "thinking_budget": 9,
        "reasoning_effort": "low",
    }
    off = decode_raw(encoded(reasoning_effort="none"), include_thinking=True).task.template_kwargs
    assert (off["enable_thinking"], off["thinking"], off["thinking_mode"]) == (False, False, "disabled")


@pytest.mark.parametrize(
    ("fields", "continues"),
    [
        ({}, None),
        ({"add_generation_prompt": False}, None),
        ({"add_generation_prompt": True}, False),
        ({"continue_final_message": True}, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, True),
        ({"continue_final_message": False}, False),
        ({"continue_final_message": False, "add_generation_prompt": False}, False),
    ],
)
def test_a_last_message_is_continued_unless_the_request_wants_a_new_one(
    fields: dict[str, bool], continues: object
) -> None:
    assert decode(**fields).task.continue_final_message is continues


def test_a_message_cannot_be_continued_and_begun() -> None:
    with pytest.raises(InvalidRequest, match="it contradicts `add_generation_prompt`") as caught:
        decode(continue_final_message=True, add_generation_prompt=True)
    assert caught.value.param == "continue_final_message"


def test_the_biases_of_llama_cpp_are_pairs_in_which_false_means_never() -> None:
    biases = decode(logit_bias=[[15, 1.5], ["7", -1], [9, False]]).task.sampling.logit_bias
    assert biases == decode(logit_bias={"15": 1.5, "7": -1, "9": -100}).task.sampling.logit_bias
    assert biases == {15: 1.5, 7: -1.0, 9: -100.0}


FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_functions_are_tools_of_an_older_spelling(choice: str | None) -> None:
    older = decode(functions=[FUNCTION, {"name": "g"}], function_call=choice)
    tools = [{"type": "function", "function": function} for function in (FUNCTION, {"name": "g"})]
    assert older.task == decode(tools=tools, tool_choice=choice, parallel_tool_calls=False).task
    assert older.calls_functions


def test_a_request_without_functions_is_answered_without_function_call() -> None:
    for fields in ({}, {"tools": [TOOL]}, {"function_call": "auto"}, {"functions": None, "function_call": None}):
        assert not decode(**fields).calls_functions


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": "f"}, "functions"),
        ({"functions": [{"description": "no name"}]}, "functions[0].name"),
        ({"functions": [{"name": ""}]}, "functions[0].name"),
        ({"functions": [FUNCTION] * 1025}, "functions"),
        ({"functions": [FUNCTION], "tools": [TOOL]}, "functions"),
        ({"functions": [FUNCTION], "tool_choice": "auto"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": "required"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {"name": "g"}}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {}}, "function_call.name"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_by_the_name_that_the_client_wrote(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(**fields)
    assert caught.value.param == param


def test_the_usage_of_a_stream_has_a_chunk_of_its_own_only_where_it_is_asked_for() -> None:
    assert decode(stream=True, stream_options={"include_usage": True}).include_usage
    for options in (None, {}, {"include_usage": False}, {"include_usage": None, "continuous_usage_stats": False}):
        assert not decode(stream=True, stream_options=options).include_usage
        assert not decode(stream=True, stream_options=options).continuous_usage
    assert decode(stream=True, stream_options={"continuous_usage_stats": True}).continuous_usage


@pytest.mark.parametrize(
    ("name", "refused", "accepted"),
    [
        ("audio", {"voice": "alloy"}, None),
        ("modalities", ["text", "audio"], ["text"]),
        ("moderation", {"model": "x"}, None),
        ("verbosity", "low", "medium"),
        ("web_search_options", {}, None),
        ("add_special_tokens", True, False),
        ("adaptive_target", 0.5, -1.0),
        ("allowed_token_ids", [1], []),
        ("cache_salt", "x", None),
        ("ec_transfer_params", {"x": 1}, {}),
        ("kv_transfer_params", {"x": 1}, {}),
        ("logprob_token_ids", [1], []),
        ("media_io_kwargs", {"x": 1}, {}),
        ("mm_processor_kwargs", {"x": 1}, {}),
        ("n_cmpl", 2, 1),
        ("parse_tool_calls", False, True),
        ("reasoning_in_content", True, False),
        ("return_prompt_text", True, False),
        ("return_token_offsets", True, False),
        ("return_tokens", True, False),
        ("spaces_between_special_tokens", False, True),
        ("truncation_side", "left", None),
        ("vllm_xargs", {"x": 1}, {}),
        ("watermarking", True, False),
        ("bad_words", ["x"], []),
        ("best_of", 2, 1),
        ("chat_template", "{{ x }}", None),
        ("echo", True, False),
        ("guided_whitespace_pattern", " *", None),
        ("include_reasoning", False, True),
        ("include_stop_str_in_output", True, False),
        ("logits_processors", ["x"], []),
        ("prompt_logprobs", 0, None),
        ("skip_special_tokens", False, True),
        ("structural_tag", "{}", None),
        ("truncate_prompt_tokens", 10, None),
        ("use_beam_search", True, False),
        ("dynatemp_range", 0.5, 0.0),
        ("grammar_lazy", True, False),
        ("lora", [{"id": 0}], []),
        ("min_keep", 2, 1),
        ("mirostat", 2, 0),
        ("n_indent", 1, 0),
        ("n_probs", 5, 0),
        ("post_sampling_probs", True, False),
        ("reasoning_format", "none", "auto"),
        ("response_fields", ["content"], []),
        ("samplers", ["top_k" * 20], []),
        ("t_max_predict_ms", 5, -1),
        ("tfs_z", 0.9, 1.0),
        ("custom_logit_processor", "x", None),
        ("ebnf", 'root ::= "a"', None),
        ("lora_path", "/x", None),
        ("no_stop_trim", True, False),
        ("repetition_detection", {}, None),
        ("return_token_ids", True, False),
        ("return_tokens_as_token_ids", True, False),
        ("separate_reasoning", False, True),
        ("stop_regex", "a+", None),
    ],
)
def test_what_other_servers_can_and_this_one_cannot_is_refused_by_name(
    name: str, refused: object, accepted: object
) -> None:
    assert decode(**{name: accepted}) == decode(**{name: None}) == decode()
    with pytest.raises(InvalidRequest, match=f"{name}: this is not supported") as caught:
        decode(**{name: refused})
    assert caught.value.param == name


def test_what_changes_no_answer_is_ignored() -> None:
    harmless = ("user", "metadata", "store", "service_tier", "length_penalty", "cache_prompt", "priority")
    assert decode(**dict.fromkeys(harmless, "x")) == decode()


PROMPT = b"the-secret-recipe"
DEEP = 200_000


def with_content(content: bytes) -> bytes:
    return b'{"model":"org/a","messages":[{"role":"user","content":%s}]}' % content


def with_field(field: bytes) -> bytes:
    return b'{"model":"org/a","messages":[{"role":"user","content":"%s"}],%s}' % (PROMPT, field)


MALFORMED = {
    "empty": b"",
    "truncated": b"{",
    "prose": b"not json",
    "trailing garbage": with_field(b'"top_p":0.5') + b" trailing",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"model":"org/a"}'.encode("utf-16"),
    "content that is not UTF-8": with_content(b'"\xff\xfe"'),
    "unknown field that is not UTF-8": with_field(b'"unknown":"\xff"'),
    "content nested 5000 deep": with_content(b"[" * 5000 + b"]" * 5000),
    "content nested 200000 deep": with_content(b"[" * DEEP + b"]" * DEEP),
    "unknown field nested 200000 deep": with_field(b'"unknown":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "template argument nested 200 deep": with_field(b'"chat_template_kwargs":{"x":' + b"[" * 200 + b"]" * 200 + b"}"),
    "700000 lists in a content": with_content(b"[" + b"[]," * 690_000 + b"[]]"),
    "700000 lists in an unknown field": with_field(b'"unknown":[' + b"[]," * 690_000 + b"[]]"),
    "150000 keys": with_field(b'"chat_template_kwargs":{' + b'"k":0,' * 150_000 + b'"k":0}'),
    "half a surrogate pair in an unknown field": with_field(rb'"unknown":"\ud800"'),
    "NaN": with_field(b'"temperature":NaN'),
    "Infinity": with_field(b'"temperature":Infinity'),
}
MISSHAPEN = {
    "null": b"null",
    "array": b"[]",
    "no model": b'{"messages":[{"role":"user","content":"x"}]}',
    "no messages": b'{"model":"org/a"}',
    "zero messages": b'{"model":"org/a","messages":[]}',
    "numeric model": b'{"model":7,"messages":[{"role":"user"}]}',
    "message without role": b'{"model":"org/a","messages":[{"content":"x"}]}',
    "textual message": b'{"model":"org/a","messages":["x"]}',
    "numeric content": with_content(b"7"),
    "remote picture": with_content(b'[{"type":"image_url","image_url":{"url":"http://example.com/x.png"}}]'),
    "picture from disk": with_content(b'[{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}]'),
    "textual temperature": with_field(b'"temperature":"hot"'),
    "temperature beyond a float": with_field(b'"temperature":1e400'),
    "zero max_tokens": with_field(b'"max_tokens":0'),
    "negative max_tokens": with_field(b'"max_tokens":-2'),
    "max_tokens of 2^64": with_field(b'"max_tokens":18446744073709551616'),
    "textual max_tokens": with_field(b'"max_tokens":"5"'),
    "boolean max_tokens": with_field(b'"max_tokens":true'),
    "a million choices": with_field(b'"n":1000000'),
    "seed of 2^70": with_field(b'"seed":1180591620717411303424'),
    "negative seed": with_field(b'"seed":-2'),
    "unknown role": b'{"model":"org/a","messages":[{"role":"banana","content":"x"}]}',
    "tool without a function": with_field(b'"tools":[{"type":"function"}]'),
    "forced tool": with_field(b'"tools":[],"tool_choice":"required"'),
    "two beams": with_field(b'"best_of":2'),
    "ten thousand stop strings": with_field(b'"stop":[' + b'"x",' * 10_000 + b'"x"]'),
    "bias beyond a float": with_field(b'"logit_bias":{"1":1e400}'),
    "bias of no token": with_field(b'"logit_bias":{"the":1}'),
    "schema that is a text": with_field(b'"response_format":{"type":"json_schema","json_schema":{"schema":"x"}}'),
    "two shapes of one reply": with_field(b'"regex":"a","grammar":"start: A"'),
    "textual stream": with_field(b'"stream":"yes"'),
    "template argument of 2^70": with_field(b'"chat_template_kwargs":{"x":1180591620717411303424}'),
}


@pytest.mark.parametrize(
    ("body", "error"),
    [pytest.param(body, MalformedJson, id=name) for name, body in MALFORMED.items()]
    + [pytest.param(body, InvalidRequest, id=name) for name, body in MISSHAPEN.items()],
)
def test_a_bad_body_is_told_apart_and_nothing_of_its_prompt_is_logged(body: bytes, error: type[InvalidRequest]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_raw(body)
    assert type(caught.value) is error
    assert PROMPT.decode() not in caught.value.log_message


def test_a_body_that_is_not_declared_as_json_is_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        openai_chat.decode(b"{}", headers={"content-type": "text/plain"}, principal=None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type"]), inner),
    max_leaves=10,
)


@given(
    st.sampled_from(
        [
            *(
                "model",
                "messages",
                "temperature",
                "seed",
                "stop",
                "n",
                "tools",
                "logit_bias",
                "response_format",
                "regex",
            ),
            *("structured_outputs", "guided_json", "guided_choice", "json_schema", "tool_choice", "stream_options"),
            *("chat_template_kwargs", "documents", "echo", "modalities"),
        ]
    ),
    json_values,
)
def test_any_json_in_any_field_is_accepted_or_refused_as_a_request(name: str, value: object) -> None:
    with suppress(InvalidRequest):
        decode(**{name: value})
