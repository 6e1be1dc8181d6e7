import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import EngineDead
from neuron_lib.types import (
    EventBeforeEnd,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from neuron_lib.wire.anthropic_errors import error_body
from neuron_lib.wire.anthropic_reply import MessageCollector, MessageStreamEncoder, ReplyStyle

USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4)
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
SHOWN = ReplyStyle(thinking="shown")
HIDDEN = ReplyStyle()


def call(index: int = 0, arguments: str = '{"a":1}') -> ToolCall:
    return ToolCall(index=index, id=f"call_ab_{index}", name="f", arguments=arguments)


def finished(
    reason: FinishReason = FinishReason.STOP, usage: Usage = USAGE, stop_strings: tuple[str | None, ...] = ()
) -> Finished:
    return Finished(reasons=(reason,), usage=usage, stop_strings=stop_strings)


def encoder(style: ReplyStyle = HIDDEN) -> MessageStreamEncoder:
    return MessageStreamEncoder(id="msg_1", model="a/b", style=style)


def collected(*events: EventBeforeEnd, end: Finished | None = None, style: ReplyStyle = SHOWN) -> dict[str, Any]:
    collector = MessageCollector(id="msg_1", model="a/b", style=style)
    for event in (*events, end or finished()):
        collector.add(event)
    body: dict[str, Any] = json.loads(collector.body())
    return body


def read(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream without pings; the name of each must be its type."""
    events = []
    for frame in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events += [event] if event["type"] != "ping" else []
    return events


def streamed(*events: EventBeforeEnd, end: Finished | None = None, style: ReplyStyle = SHOWN) -> list[dict[str, Any]]:
    writer = encoder(style)
    stream = writer.opening() + b"".join(map(writer.event, (Started(prompt_tokens=10), *events)))
    return read(stream + writer.ending(end or finished()))


def accumulated(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream. Every rule about the order of the events is checked."""
    start, *between, delta, stop = events
    assert (start["type"], delta["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    message: dict[str, Any] = start["message"]
    open_index, texts = None, list[str]()
    for event in between:
        match event["type"]:
            case "content_block_start":
                assert (open_index, event["index"]) == (None, len(message["content"]))
                open_index, texts = event["index"], []
                message["content"].append(event["content_block"])
            case "content_block_delta":
                assert event["index"] == open_index
                block, change = message["content"][-1], event["delta"]
                match change["type"]:
                    case "input_json_delta":
                        assert block["input"] == {}
                        texts.append(change["partial_json"])
                    case "signature_delta":
                        block["signature"] = change["signature"]
                    case kind:
                        block[kind.removesuffix("_delta")] += change[kind.removesuffix("_delta")]
            case "content_block_stop":
                assert event["index"] == open_index
                open_index = None
                if texts:
                    message["content"][-1]["input"] = json.loads("".join(texts))
    assert open_index is None
    return {**message, **delta["delta"], "usage": delta["usage"]}


def test_each_event_is_written_byte_for_byte() -> None:
    writer = encoder(SHOWN)
    assert writer.opening() == b""
    assert writer.event(Started(prompt_tokens=10)) == (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
        b'"role":"assistant","model":"a/b","content":[],"stop_reason":null,"stop_sequence":null,'
        b'"usage":{"input_tokens":10,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":0}}}'
        b"\n\n" + PING
    )
    assert writer.event(ReasoningDelta("hm")) == (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"thinking","thinking":"","signature":""}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"thinking_delta","thinking":"hm"}}\n\n'
    )
    assert writer.event(TextDelta("hi")) == (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"signature_delta","signature":"unsigned"}}\n\n'
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","index":1,'
        b'"content_block":{"type":"text","text":""}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,'
        b'"delta":{"type":"text_delta","text":"hi"}}\n\n'
    )
    assert writer.event(call()) == (
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":1}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","index":2,'
        b'"content_block":{"type":"tool_use","id":"call_ab_0","name":"f","input":{}}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":2,'
        b'"delta":{"type":"input_json_delta","partial_json":"{\\"a\\":1}"}}\n\n'
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":2}\n\n'
    )
    assert writer.ending(finished(FinishReason.TOOL_CALLS)) == (
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},'
        b'"usage":{"input_tokens":6,"cache_creation_input_tokens":0,"cache_read_input_tokens":4,"output_tokens":5}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )


EVENTS = st.one_of(
    st.builds(TextDelta, st.sampled_from(["a", " ", "\n", "b\u2028", ""])),
    st.builds(ReasoningDelta, st.sampled_from(["hm", " "])),
    st.builds(call, st.integers(0, 2), st.sampled_from(["", "{}", '{"a":[1]}'])),
)
STYLES = st.builds(
    ReplyStyle, thinking=st.sampled_from(["shown", "omitted", "hidden"]), parallel_tool_use=st.booleans()
)


@given(st.lists(EVENTS), STYLES, st.sampled_from(FinishReason))
def test_a_stream_adds_up_to_the_whole_reply(
    events: list[EventBeforeEnd], style: ReplyStyle, reason: FinishReason
) -> None:
    end = finished(reason)
    assert accumulated(streamed(*events, end=end, style=style)) == collected(*events, end=end, style=style)


@pytest.mark.parametrize(
    ("events", "blocks"),
    [
        pytest.param((), [], id="nothing"),
        pytest.param((TextDelta("a"), TextDelta(" b")), [("text", "a b")], id="texts in a row are one block"),
        pytest.param((TextDelta(" "), TextDelta("\n")), [], id="blank text alone is no block"),
        pytest.param(
            (TextDelta("\n"), TextDelta("a"), TextDelta(" ")), [("text", "\na ")], id="blank text beside text"
        ),
        pytest.param(
            (ReasoningDelta("h"), ReasoningDelta("m"), TextDelta("\n\n"), call()),
            [("thinking", "hm"), ("tool_use", {"a": 1})],
            id="blank text before a call",
        ),
        pytest.param(
            (TextDelta("a"), call(0), TextDelta("\n"), call(1, ""), TextDelta("b")),
            [("text", "a"), ("tool_use", {"a": 1}), ("tool_use", {}), ("text", "b")],
            id="each call is its own block",
        ),
        pytest.param(
            (ReasoningDelta("a"), TextDelta("b"), ReasoningDelta("c")),
            [("thinking", "a"), ("text", "b"), ("thinking", "c")],
            id="thinking between texts",
        ),
    ],
)
def test_a_reply_is_a_list_of_blocks(events: tuple[EventBeforeEnd, ...], blocks: list[tuple[str, Any]]) -> None:
    content = collected(*events)["content"]
    keys = {"tool_use": "input"}
    assert [(block["type"], block[keys.get(block["type"], block["type"])]) for block in content] == blocks


def test_thinking_that_nobody_asked_for_is_not_shown_but_the_stream_goes_on() -> None:
    writer = encoder(HIDDEN)
    assert writer.event(ReasoningDelta("hm")) == PING
    assert collected(ReasoningDelta("hm"), TextDelta("a"), style=HIDDEN)["content"] == [{"type": "text", "text": "a"}]


def test_omitted_thinking_is_a_block_without_its_text() -> None:
    content = collected(ReasoningDelta("hm"), ReasoningDelta("hm"), style=ReplyStyle(thinking="omitted"))["content"]
    assert content == [{"type": "thinking", "thinking": "", "signature": "unsigned"}]


def test_without_parallel_tool_use_only_the_first_call_is_shown() -> None:
    content = collected(call(0), call(1), style=ReplyStyle(parallel_tool_use=False))["content"]
    assert [block["id"] for block in content] == ["call_ab_0"]


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (finished(FinishReason.STOP), "end_turn", None),
        (finished(FinishReason.LENGTH), "max_tokens", None),
        (finished(FinishReason.TOOL_CALLS), "tool_use", None),
        (finished(FinishReason.STOP, stop_strings=(None,)), "end_turn", None),
        (finished(FinishReason.STOP, stop_strings=("END",)), "stop_sequence", "END"),
        (finished(FinishReason.TOOL_CALLS, stop_strings=("END",)), "tool_use", None),
    ],
)
def test_each_end_has_its_reason(end: Finished, reason: str, sequence: str | None) -> None:
    body = collected(TextDelta("a"), end=end)
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)


def test_thinking_tokens_are_told_where_there_are_some() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=9, reasoning_tokens=4)
    assert collected(TextDelta("a"), end=finished(usage=usage))["usage"] == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
    }


def test_a_reply_that_is_lost_ends_with_its_usage_and_the_error() -> None:
    writer = encoder()
    error = EngineDead("a/b", "SIGSEGV")
    writer.event(Started(prompt_tokens=10))
    writer.event(TextDelta("Hel"))
    stop, delta, told = read(writer.error(error, USAGE))
    assert stop == {"type": "content_block_stop", "index": 0}
    assert (delta["delta"], delta["usage"]["output_tokens"]) == ({"stop_reason": None, "stop_sequence": None}, 5)
    assert told == json.loads(error_body(error))


def test_a_body_is_one_line_and_is_not_there_before_the_end() -> None:
    collector = MessageCollector(id="msg_1", model="a/b", style=HIDDEN)
    collector.add(TextDelta("a\u2028\x85\n"))
    with pytest.raises(ValueError, match="not finished"):
        collector.body()
    collector.add(finished())
    assert len(collector.body().decode().splitlines()) == 1
