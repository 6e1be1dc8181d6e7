from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.formats import FORMATS, OutputEvent, Reader, plain_reader
from neuron_lib.text.reasoning import REASONING_MARKERS, prompt_opens_reasoning
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall

THINK = REASONING_MARKERS[0]
HERMES = FORMATS["hermes"]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALL = '{"name":"f","arguments":{"a":1}}'
ENDS = '{"a":"</tool_call> </think>"}'
SAYS_END = '{"name":"f","arguments":{"a":"</tool_call> </think>"}}'


def fixed_hex(size: int) -> str:
    return "0" * size


def reader(**options: Any) -> Reader:
    return HERMES.reader(**{"reasoning": THINK, "tools": TOOLS, "token_hex": fixed_hex, **options})


def called(index: int, name: str = "f", arguments: str = '{"a":1}') -> ToolCall:
    return ToolCall(index=index, id=f"call_00000000_{index}", name=name, arguments=arguments)


def merged(events: list[OutputEvent]) -> list[OutputEvent]:
    """The events with neighbours of one kind joined: what a reader ends up with."""
    result: list[OutputEvent] = []
    for event in events:
        match result[-1:], event:
            case [TextDelta(text=earlier)], TextDelta(text=text):
                result[-1] = TextDelta(earlier + text)
            case [ReasoningDelta(text=earlier)], ReasoningDelta(text=text):
                result[-1] = ReasoningDelta(earlier + text)
            case _:
                result.append(event)
    return result


def read(text: str, **options: Any) -> list[OutputEvent]:
    reply = reader(**options)
    return merged(reply.feed(text) + reply.finish())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("plain", [TextDelta("plain")]),
        ("  indented", [TextDelta("  indented")]),
        ("<think>why</think>\n\nanswer ", [ReasoningDelta("why"), TextDelta("answer ")]),
        ("<think></think>answer", [TextDelta("answer")]),
        ("<think>why</think> \n", [ReasoningDelta("why")]),
        ("<think>never closed", [ReasoningDelta("never closed")]),
        ("<think>half a tag</thi", [ReasoningDelta("half a tag</thi")]),
        ("a <think>b</think>c", [TextDelta("a "), ReasoningDelta("b"), TextDelta("c")]),
        ("no block</think> here", [TextDelta("no block</think> here")]),
        ("a < b and <thin", [TextDelta("a < b and <thin")]),
        (f"<tool_call>\n{CALL}\n</tool_call>", [called(0)]),
        (f"ok <tool_call>{CALL}</tool_call>", [TextDelta("ok"), called(0)]),
        (
            f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>\nbye",
            [called(0), called(1), TextDelta("bye")],
        ),
        (f"<think>t</think>\n<tool_call>{CALL}</tool_call>", [ReasoningDelta("t"), called(0)]),
        (f"<think><tool_call>{CALL}</think>a", [ReasoningDelta(f"<tool_call>{CALL}"), TextDelta("a")]),
        ("<tool_call>oops</tool_call> b", [TextDelta("<tool_call>oops</tool_call> b")]),
        (f"<tool_call>{CALL}</tool_call> <tool_call>x", [called(0), TextDelta("<tool_call>x")]),
        (
            f"<tool_call>{CALL}</tool_call> <tool_call>x</tool_call> y",
            [called(0), TextDelta("<tool_call>x</tool_call> y")],
        ),
        (f"<tool_call>{CALL}", [called(0)]),
        (f"<tool_call>\n{CALL}\n</tool_ca", [called(0)]),
        (f"<tool_call>{CALL} and", [TextDelta(f"<tool_call>{CALL} and")]),
        (f"<tool_call>{CALL}\n<tool_call>{CALL}", [called(0), called(1)]),
        (f"<tool_call>[{CALL}, {CALL}]</tool_call>\nx", [called(0), called(1), TextDelta("x")]),
        (f"<tool_call>{SAYS_END}</tool_call>x", [called(0, arguments=ENDS), TextDelta("x")]),
        ('<tool_call>{"a": "</tool_call>b', [TextDelta('<tool_call>{"a": "</tool_call>b')]),
        (
            f'<tool_call>{{"a": "</tool_call>b<tool_call>{CALL}</tool_call>c',
            [TextDelta('<tool_call>{"a": "</tool_call>b'), called(0), TextDelta("c")],
        ),
        (f"<think>t<tool_call>{CALL}</tool_call>", [ReasoningDelta("t"), called(0)]),
        (f"<think>t<tool_call>{CALL}", [ReasoningDelta("t"), called(0)]),
        (
            f"<think>t<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>\n</think>\na</think>",
            [ReasoningDelta("t"), called(0), called(1), TextDelta("a</think>")],
        ),
        (
            f"<think>t<tool_call>{SAYS_END}</tool_call>a",
            [ReasoningDelta("t"), called(0, arguments=ENDS), TextDelta("a")],
        ),
        ("<think>a <tool_call> b</think>c", [ReasoningDelta("a <tool_call> b"), TextDelta("c")]),
        (
            "<think>a <tool_call>b</tool_call> c</think>d",
            [ReasoningDelta("a <tool_call>b</tool_call> c"), TextDelta("d")],
        ),
        ("<think>a <tool_call> b", [ReasoningDelta("a <tool_call> b")]),
        ('<think><tool_call>{"a": "</think>b', [ReasoningDelta('<tool_call>{"a": "'), TextDelta("b")]),
        (
            f"<think>t<tool_call>{CALL}</tool_call><think>u</think>v",
            [ReasoningDelta("t"), called(0), ReasoningDelta("u"), TextDelta("v")],
        ),
        (
            '<tool_call>{"name":"f","city":"Rome"}</tool_call>',
            [TextDelta('<tool_call>{"name":"f","city":"Rome"}</tool_call>')],
        ),
        ('<tool_call>{"name":"f","parameters":{"a":1}}</tool_call>', [called(0)]),
        ("<tool_call>{}</tool_ca", [TextDelta("<tool_call>{}</tool_ca")]),
    ],
)
def test_a_reply_becomes_answer_reasoning_and_calls(text: str, expected: list[OutputEvent]) -> None:
    assert read(text) == expected


def test_a_reply_to_a_prompt_that_opened_the_block_starts_in_reasoning() -> None:
    assert read("why</think>\nanswer", starts_in_reasoning=True) == [ReasoningDelta("why"), TextDelta("answer")]


def test_without_reasoning_markers_a_reply_cannot_start_in_reasoning() -> None:
    assert read("a<think>b", starts_in_reasoning=True, reasoning=None) == [TextDelta("a<think>b")]


@pytest.mark.parametrize(
    ("text", "opened_by_prompt", "expected"),
    [
        ("<think>why</think>\n\nanswer", False, "<think>why</think>\n\nanswer"),
        ("<think>why", False, "<think>why</think>"),
        ("<think>", False, "<think></think>"),
        ("why</think>\nanswer", True, "<think>why</think>\nanswer"),
        ("</think>answer", True, "<think></think>answer"),
        ("why", True, "<think>why</think>"),
        ("", True, ""),
        ("why</th", True, "<think>why</th</think>"),
    ],
)
def test_included_thinking_is_text_in_its_markers_closed_once(text: str, opened_by_prompt: bool, expected: str) -> None:  # noqa: FBT001
    events = read(text, include_thinking=True, starts_in_reasoning=opened_by_prompt)
    assert events == ([TextDelta(expected)] if expected else [])


@pytest.mark.parametrize(
    ("opened_by_prompt", "text", "before"),
    [
        (False, "<think>t", "<think>t</think>"),
        (True, "t", "<think>t</think>"),
        (True, "", ""),
    ],
)
def test_included_thinking_that_a_call_ends_is_closed_once(opened_by_prompt: bool, text: str, before: str) -> None:  # noqa: FBT001
    reply = f"{text}<tool_call>{CALL}</tool_call></think>a"
    events = read(reply, include_thinking=True, starts_in_reasoning=opened_by_prompt)
    assert events == [*([TextDelta(before)] if before else []), called(0), TextDelta("a")]


def test_space_between_a_call_and_included_thinking_is_dropped_but_none_after_the_thinking() -> None:
    text = f"<tool_call>{CALL}</tool_call>\n<think>w</think>\nx"
    assert read(text, include_thinking=True) == [called(0), TextDelta("<think>w</think>\nx")]


def test_text_and_markers_of_one_piece_become_one_event() -> None:
    assert reader(include_thinking=True).feed("a<think>b</think>c") == [TextDelta("a<think>b</think>c")]


def test_without_markers_text_passes_through_untouched() -> None:
    reply = plain_reader()
    text = "<think><tool_call>"
    assert reply.feed(text) == [TextDelta(text)]
    assert reply.feed("") == []
    assert reply.finish() == []


def test_text_is_held_back_only_while_a_marker_may_still_come_of_it() -> None:
    reply = reader()
    assert reply.feed("a<th") == [TextDelta("a")]
    assert reply.feed("e") == [TextDelta("<the")]
    assert reply.feed("<") == []
    assert reply.finish() == [TextDelta("<")]


def test_the_reader_knows_where_it_is_and_how_many_calls_it_saw() -> None:
    reply = reader()
    places = []
    for piece in ("x", "<think>", "y", "</think>", "<tool_call>", CALL, "</tool_call>"):
        reply.feed(piece)
        places.append((reply.in_reasoning, reply.tool_calls_seen))
    assert places == [
        (False, 0),
        (True, 0),
        (True, 0),
        (False, 0),
        (False, 0),
        (False, 0),
        (False, 1),
    ]


def test_a_reader_without_reasoning_markers_is_never_in_reasoning() -> None:
    assert not reader(reasoning=None).in_reasoning


def test_call_ids_are_random_by_default() -> None:
    def first_id() -> str:
        match HERMES.reader(tools=TOOLS).feed(f"<tool_call>{CALL}</tool_call>"):
            case [ToolCall(id=call_id)]:
                return call_id
            case other:
                pytest.fail(f"no call in {other}")

    assert first_id() != first_id()


def test_declared_parameter_types_reach_the_call() -> None:
    tool = {"function": {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}}}}
    body = "<function=f><parameter=x>5</parameter></function>"
    assert read(f"<tool_call>{body}</tool_call>", tools=[tool]) == [called(0, arguments='{"x":"5"}')]


fragments = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", CALL, SAYS_END, '{"a": "', '"'),
        *("<function=f><parameter=x>", "</parameter>", "</function>", "<", "</", "think>", " ", "\n", "x", "é"),
    ]
)


@given(st.lists(fragments, max_size=12).map("".join), st.booleans(), st.booleans(), st.data())
def test_how_the_reply_is_cut_into_pieces_changes_nothing(
    text: str,
    starts_in_reasoning: bool,  # noqa: FBT001
    include_thinking: bool,  # noqa: FBT001
    data: st.DataObject,
) -> None:
    options = {"starts_in_reasoning": starts_in_reasoning, "include_thinking": include_thinking}
    borders = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    reply = reader(**options)
    events: list[OutputEvent] = []
    for start, end in zip([0, *borders], [*borders, len(text)], strict=True):
        events += reply.feed(text[start:end])
    events += reply.finish()
    assert merged(events) == read(text, **options)
    assert all(event.text for event in events if isinstance(event, TextDelta | ReasoningDelta))


@given(st.lists(fragments, max_size=12).map("".join))
def test_with_included_thinking_and_no_calls_not_a_character_is_lost(text: str) -> None:
    events = read(text, include_thinking=True, tools=())
    output = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert output in {text, text + THINK.close}


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("user: what does <think> mean?\nassistant:", False),
        ("", False),
    ],
)
def test_only_a_marker_at_the_end_of_the_prompt_opens_reasoning(prompt: str, opens: bool) -> None:  # noqa: FBT001
    assert prompt_opens_reasoning(prompt, THINK) is opens


def test_marker_pairs_are_tried_in_the_order_of_the_contract() -> None:
    assert (
        Markers("<think>", "</think>"),
        Markers("[THINK]", "[/THINK]"),
        Markers("<thought>", "</thought>"),
        Markers("<reasoning>", "</reasoning>"),
    ) == REASONING_MARKERS
