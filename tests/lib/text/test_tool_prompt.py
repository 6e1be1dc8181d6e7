"""Tools, calls and results in the text of messages."""

from typing import Any

import pytest

from neuron_lib.text.formats import FORMATS, GENERIC
from neuron_lib.text.formats.tool_format import ParsedCall
from neuron_lib.text.tool_prompt import described_tools, mentions_tools, shows_described_tools, with_tools_as_text

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
HI = {"role": "user", "content": "Hi"}


def called(arguments: object, **more: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"name": "f", "arguments": arguments}}],
        **more,
    }


def as_text(*messages: dict[str, Any], keeps_results: bool = False) -> list[dict[str, Any]]:
    return with_tools_as_text(messages, (), spell=GENERIC.spelled, keeps_results=keeps_results)


@pytest.mark.parametrize(
    ("message", "mentions"),
    [
        (HI, False),
        (called({}), True),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f", "arguments": "{}"}}, True),
        ({"role": "tool", "content": "3"}, True),
        ({"role": "function", "content": "3"}, True),
        ({"role": "assistant", "content": "x", "tool_calls": []}, False),
    ],
)
def test_a_chat_mentions_tools_if_it_has_calls_or_results(message: dict[str, Any], *, mentions: bool) -> None:
    assert mentions_tools([HI, message]) is mentions


def test_tools_are_described_in_the_system_message() -> None:
    (alone, _) = described_tools([HI], TOOLS, spell=GENERIC.spelled)
    assert alone["role"] == "system"
    assert shows_described_tools(alone["content"])
    assert '{"name": "look", "parameters": {"type": "object"}}' in alone["content"]
    assert '<tool_call>\n{"name": "FUNCTION", "arguments": {"ARGUMENT": "VALUE"}}\n</tool_call>' in alone["content"]
    (together, _) = described_tools([{"role": "system", "content": "Be kind."}, HI], TOOLS, spell=GENERIC.spelled)
    assert together["content"] == f"Be kind.\n\n{alone['content']}"
    parts = [{"type": "text", "text": "Be kind."}]
    (in_parts, _) = described_tools([{"role": "developer", "content": parts}, HI], TOOLS, spell=GENERIC.spelled)
    assert in_parts["content"] == [*parts, {"type": "text", "text": f"\n\n{alone['content']}"}]
    assert not shows_described_tools("Hi")
    assert described_tools([HI], (), spell=GENERIC.spelled) == [HI]


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [({"a": "é"}, '{"a": "é"}'), ('{"a":1} ', '{"a":1}'), ("", "{}"), (None, "{}"), ("no JSON", "no JSON")],
)
def test_a_call_becomes_text_of_the_assistant(arguments: object, spelled: str) -> None:
    (message,) = as_text(called(arguments))
    text = f'<tool_call>\n{{"name": "f", "arguments": {spelled}}}\n</tool_call>'
    assert message == {"role": "assistant", "content": text}
    (beside,) = as_text(called(arguments, content="I look."))
    assert beside["content"] == f"I look.\n{text}"
    (older,) = as_text({"role": "assistant", "function_call": {"name": "f", "arguments": arguments}})
    assert older == {"role": "assistant", "content": text}


def test_what_is_no_call_is_left_out() -> None:
    assert as_text({"role": "assistant", "content": "x", "tool_calls": [None, {}, {"function": {}}]}) == [
        {"role": "assistant", "content": "x"}
    ]


def test_results_become_one_message_of_the_user_together_with_what_the_user_says() -> None:
    one, two = {"role": "tool", "content": "1"}, {"role": "function", "content": [{"type": "text", "text": "2"}]}
    response = "<tool_response>\n{}\n</tool_response>".format
    assert as_text(one, two, HI) == [{"role": "user", "content": f"{response(1)}\n{response(2)}\nHi"}]
    assert as_text(HI, called({}), one)[2:] == [{"role": "user", "content": response(1)}]
    assert as_text(HI, HI) == [HI, HI]
    assert as_text() == []
    assert as_text(called({}), one, keeps_results=True)[1:] == [one]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>'),
        ("granite3", '<|tool_call|>[{"name": "f", "arguments": {"a": "b"}}]'),
        ("lfm2", "<|tool_call_start|>[f(a='b')]<|tool_call_end|>"),
        (
            "deepseek_v31",
            (
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
                '{"a": "b"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
            ),
        ),
        ("mistral", ""),
        ("harmony", ""),
    ],
)
def test_a_format_spells_calls_as_its_family_does(name: str, text: str) -> None:
    assert FORMATS[name].spelled([ParsedCall("f", '{"a": "b"}')]) == text


@pytest.mark.parametrize("name", sorted(name for name in FORMATS if FORMATS[name].spelled([ParsedCall("f", "{}")])))
def test_what_a_format_spells_is_read_as_the_same_calls(name: str) -> None:
    calls = [ParsedCall("look", '{"a":"x"}'), ParsedCall("look", "{}")]
    reader = FORMATS[name].reader(tools=TOOLS)
    events = reader.feed(FORMATS[name].spelled(calls)) + reader.finish()
    assert [(event.name, event.arguments) for event in events] == calls  # type: ignore[union-attr]  # calls alone


def test_arguments_that_are_no_object_are_spelled_as_they_are() -> None:
    assert FORMATS["lfm2"].spelled([ParsedCall("f", "[1]"), ParsedCall("g", "no")]) == (
        "<|tool_call_start|>[f([1]), g(no)]<|tool_call_end|>"
    )
