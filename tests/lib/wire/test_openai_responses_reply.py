import json
from collections.abc import Sequence
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from neuron_lib.errors import EngineDead
from neuron_lib.types import (
    EventBeforeEnd,
    Finished,
    FinishReason,
    Likely,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)
from neuron_lib.wire.openai_responses_reply import Response, ResponseCollector, ResponseStreamEncoder

USAGE = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, reasoning_tokens=3)
USED = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 15,
}
BEGUN = Response(id="resp_1", created_at=7, model="a/b", tools=Raw(b'[{"type":"function","name":"f"}]'))
STARTED = Started(prompt_tokens=10)


def call(index: int = 0) -> ToolCall:
    return ToolCall(index=index, id=f"call_{index}", name="f", arguments='{"a":1}')


def finished(reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(reasons=(reason,), usage=USAGE)


def read(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream. Each must name its type twice and have the next number."""
    *frames, end = stream.split(b"\n\n")
    assert end == b""
    events = []
    for number, frame in enumerate(frames):
        name, data = frame.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == number
        events.append(event)
    return events


def streamed(*said: EventBeforeEnd, reason: FinishReason = FinishReason.STOP) -> list[dict[str, Any]]:
    encoder = ResponseStreamEncoder(BEGUN, unique="1")
    return read(encoder.opening() + b"".join(map(encoder.event, said)) + encoder.ending(finished(reason)))


def collected(
    *said: EventBeforeEnd, reason: FinishReason = FinishReason.STOP, response: Response = BEGUN
) -> dict[str, Any]:
    collector = ResponseCollector(response, unique="1")
    for event in (*said, finished(reason)):
        collector.add(event)
    body: dict[str, Any] = json.loads(collector.body())
    return body


def outline(events: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The type of each event, the place of its item, and what is new in it."""
    return [
        (
            event["type"].removeprefix("response."),
            event["output_index"],
            event.get("delta", event.get("text", event.get("arguments", ""))),
        )
        for event in events
        if "output_index" in event
    ]


def text_of(item: dict[str, Any]) -> str:
    return "".join(part["text"] for part in item.get("content", item.get("summary", ())))


# -------------------------------------------------------------------------------------------------------------- streams


def test_a_stream_opens_with_the_response_that_has_no_output_yet() -> None:
    created, in_progress, *_ = streamed(TextDelta("hi"))
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert created["response"] == in_progress["response"]
    assert created["response"] == {
        "id": "resp_1",
        "object": "response",
        "created_at": 7,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "a/b",
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [{"type": "function", "name": "f"}],
        "top_logprobs": 0,
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def test_reasoning_a_text_and_calls_are_items_one_after_the_other() -> None:
    events = streamed(
        STARTED,
        ReasoningDelta("h"),
        ReasoningDelta("m"),
        TextDelta("let "),
        TextDelta("me"),
        call(0),
        call(1),
        reason=FinishReason.TOOL_CALLS,
    )
    assert outline(events) == [
        ("output_item.added", 0, ""),
        ("reasoning_summary_part.added", 0, ""),
        ("reasoning_summary_text.delta", 0, "h"),
        ("reasoning_summary_text.delta", 0, "m"),
        ("reasoning_summary_text.done", 0, "hm"),
        ("reasoning_summary_part.done", 0, ""),
        ("output_item.done", 0, ""),
        ("output_item.added", 1, ""),
        ("content_part.added", 1, ""),
        ("output_text.delta", 1, "let "),
        ("output_text.delta", 1, "me"),
        ("output_text.done", 1, "let me"),
        ("content_part.done", 1, ""),
        ("output_item.done", 1, ""),
        ("output_item.added", 2, ""),
        ("function_call_arguments.delta", 2, '{"a":1}'),
        ("function_call_arguments.done", 2, '{"a":1}'),
        ("output_item.done", 2, ""),
        ("output_item.added", 3, ""),
        ("function_call_arguments.delta", 3, '{"a":1}'),
        ("function_call_arguments.done", 3, '{"a":1}'),
        ("output_item.done", 3, ""),
    ]
    last = events[-1]
    assert last["type"] == "response.completed"
    assert last["response"] == events[0]["response"] | {
        "status": "completed",
        "output": [
            {
                "type": "reasoning",
                "id": "rs_10000",
                "status": "completed",
                "summary": [{"type": "summary_text", "text": "hm"}],
            },
            {
                "type": "message",
                "id": "msg_10001",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "let me", "annotations": [], "logprobs": []}],
            },
            *(
                {
                    "type": "function_call",
                    "id": f"fc_1000{index + 2}",
                    "status": "completed",
                    "call_id": f"call_{index}",
                    "name": "f",
                    "arguments": '{"a":1}',
                }
                for index in (0, 1)
            ),
        ],
        "usage": USED,
    }
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["response"]["output"]


def test_an_item_begins_empty_and_its_events_name_it() -> None:
    events = streamed(ReasoningDelta("hm"), TextDelta("hi"), call())
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["status"] for item in added] == ["in_progress"] * 3
    assert (added[0]["summary"], added[1]["content"], added[2]["arguments"]) == ([], [], "")
    for event in events:
        if "item_id" in event:
            assert event["item_id"] == added[event["output_index"]]["id"]
    parts = [
        (event["type"], event["content_index"], event["part"]["text"])
        for event in events
        if "content_index" in event and "part" in event
    ]
    assert parts == [("response.content_part.added", 0, ""), ("response.content_part.done", 0, "hi")]


def test_a_text_behind_a_call_is_a_message_of_its_own() -> None:
    output = collected(TextDelta("a"), call(), TextDelta("b"))["output"]
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert [text_of(item) for item in (output[0], output[2])] == ["a", "b"]


def test_reasoning_behind_a_text_is_an_item_of_its_own() -> None:
    output = collected(ReasoningDelta("a"), TextDelta("b"), ReasoningDelta("c"), TextDelta("d"))["output"]
    assert [(item["type"], text_of(item)) for item in output] == [
        ("reasoning", "a"),
        ("message", "b"),
        ("reasoning", "c"),
        ("message", "d"),
    ]


SPACE = TextDelta("\n\n")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param([SPACE, call(), SPACE, call(1), SPACE], ["function_call", "function_call"], id="around calls"),
        pytest.param([ReasoningDelta("\n"), SPACE, TextDelta("hi")], ["message"], id="an empty block of reasoning"),
        pytest.param(
            [SPACE, ReasoningDelta("hm"), SPACE, call()], ["reasoning", "function_call"], id="around reasoning"
        ),
        pytest.param([TextDelta("", logprobs=(TokenLogprob(b"\n", 0.0),)), call()], ["function_call"], id="tokens"),
    ],
)
def test_white_space_alone_is_no_item(said: list[EventBeforeEnd], expected: list[str]) -> None:
    assert [item["type"] for item in collected(*said, reason=FinishReason.TOOL_CALLS)["output"]] == expected


@pytest.mark.parametrize(
    ("said", "output"),
    [
        ([SPACE, call(), TextDelta("a")], [("function_call", ""), ("message", "a")]),
        ([SPACE, ReasoningDelta("\n"), TextDelta("a")], [("message", "a")]),
        (
            [TextDelta("a"), ReasoningDelta("\n"), TextDelta("b"), ReasoningDelta("c")],
            [("message", "ab"), ("reasoning", "c")],
        ),
    ],
)
def test_white_space_that_was_dropped_does_not_come_back(
    said: list[EventBeforeEnd], output: list[tuple[str, str]]
) -> None:
    found = [(item["type"], text_of(item)) for item in collected(*said)["output"]]
    assert found == output


def test_white_space_before_a_text_belongs_to_the_text() -> None:
    token = TokenLogprob(b"\n\n", -1.0)
    (item,) = collected(TextDelta("\n\n", logprobs=(token,)), TextDelta("hi "), TextDelta(" "))["output"]
    assert text_of(item) == "\n\nhi  "
    assert [token["token"] for token in item["content"][0]["logprobs"]] == ["\n\n"]


@pytest.mark.parametrize(
    ("said", "output"),
    [
        ([], [("message", "")]),
        ([SPACE], [("message", "\n\n")]),
        ([ReasoningDelta("hm")], [("reasoning", "hm"), ("message", "")]),
        ([ReasoningDelta("hm"), SPACE], [("reasoning", "hm"), ("message", "\n\n")]),
    ],
)
def test_a_reply_that_says_nothing_has_an_empty_message(
    said: list[EventBeforeEnd], output: list[tuple[str, str]]
) -> None:
    assert [(item["type"], text_of(item)) for item in collected(*said)["output"]] == output


def test_a_reply_that_was_cut_is_incomplete_and_so_is_its_last_item() -> None:
    *_, last = streamed(ReasoningDelta("hm"), TextDelta("ha"), reason=FinishReason.LENGTH)
    assert last["type"] == "response.incomplete"
    response = last["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["usage"] == USED


def test_a_reply_that_was_cut_while_the_model_reasoned_has_no_message() -> None:
    (item,) = collected(ReasoningDelta("hm"), reason=FinishReason.LENGTH)["output"]
    assert (item["type"], item["status"]) == ("reasoning", "incomplete")


def test_a_request_for_one_call_gets_one() -> None:
    response = Response(model="a/b", parallel_tool_calls=False)
    output = collected(call(0), call(1), response=response)["output"]
    assert [item["call_id"] for item in output] == ["call_0"]


def test_tokens_are_written_with_their_bytes_and_likeliest_rivals() -> None:
    tokens = (TokenLogprob(b"h", -0.5, (Likely(b"h", -0.5), Likely(b"\xc3", -inf))), TokenLogprob("é".encode(), -1.0))
    written = [
        {
            "token": "h",
            "logprob": -0.5,
            "bytes": [104],
            "top_logprobs": [
                {"token": "h", "logprob": -0.5, "bytes": [104]},
                {"token": "\ufffd", "logprob": -9999.0, "bytes": [195]},
            ],
        },
        {"token": "é", "logprob": -1.0, "bytes": [195, 169], "top_logprobs": []},
    ]
    events = streamed(TextDelta("hé", logprobs=tokens), TextDelta("x"))
    found = {event["type"]: event["logprobs"] for event in events if event.get("logprobs")}
    assert found == {"response.output_text.delta": written, "response.output_text.done": written}
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == written


def test_no_text_can_break_the_framing() -> None:
    text = "a\r\n\r\ndata: x\n\n\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00 é😀入✅"
    stream = ResponseStreamEncoder(BEGUN, unique="1").event(TextDelta(text))
    assert b"\r" not in stream
    assert len(stream.decode().splitlines()) == 9  # three events of two lines, and an empty line behind each
    assert read_loosely(stream)[-1]["delta"] == text


def read_loosely(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(frame.split(b"\ndata: ")[1]) for frame in stream.split(b"\n\n")[:-1]]


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_lost_reply_ends_its_item_then_fails_with_its_usage_and_then_says_the_error() -> None:
    encoder = ResponseStreamEncoder(BEGUN, unique="1")
    stream = encoder.opening() + encoder.event(TextDelta("Hel")) + encoder.error(EngineDead("a/b", "SIGSEGV"), USAGE)
    *_, item_done, failed, error = read(stream)
    message = "the engine of model 'a/b' is gone: SIGSEGV"
    assert item_done["item"]["status"] == "incomplete"
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": message}
    assert failed["response"]["usage"] == USED
    assert [text_of(item) for item in failed["response"]["output"]] == ["Hel"]
    assert error == {
        "type": "error",
        "sequence_number": failed["sequence_number"] + 1,
        "code": "server_error",
        "message": message,
        "param": None,
        "error": {"type": "api_error", "code": "server_error", "message": message, "param": None},
    }


def test_an_error_with_bytes_that_are_no_text_can_be_told() -> None:
    stream = ResponseStreamEncoder(BEGUN, unique="1").error(EngineDead("a/b", "cannot open /\udcff"), USAGE)
    failed, error = read(stream)
    assert (
        failed["response"]["error"]["message"]
        == error["message"]
        == "the engine of model 'a/b' is gone: cannot open /\\udcff"
    )


def test_a_reply_that_is_lost_before_it_said_anything_has_no_item() -> None:
    encoder = ResponseStreamEncoder(BEGUN, unique="1")
    _, _, failed, error = read(encoder.opening() + encoder.error(EngineDead("a/b", "SIGSEGV"), USAGE))
    assert (failed["type"], failed["response"]["output"], error["type"]) == ("response.failed", [], "error")


# -------------------------------------------------------------------------------------------------------- whole replies


def test_a_whole_reply_is_one_line_to_every_reader_and_ends_with_its_usage() -> None:
    collector = ResponseCollector(BEGUN, unique="1")
    for event in (TextDelta("a\u2028\u2029\x85\n"), finished()):
        collector.add(event)
    body = collector.body()
    assert len(body.decode().splitlines()) == 1
    assert list(json.loads(body))[-1] == "usage"
    assert text_of(json.loads(body)["output"][0]) == "a\u2028\u2029\x85\n"


def test_an_unfinished_reply_has_no_body() -> None:
    collector = ResponseCollector(BEGUN, unique="1")
    collector.add(TextDelta("half"))
    with pytest.raises(ValueError, match="not finished"):
        collector.body()


PIECES = st.sampled_from(["", " ", "\n", "a", " b", "c\n"])
SAID = st.lists(
    st.builds(TextDelta, PIECES) | st.builds(ReasoningDelta, PIECES) | st.builds(call, st.integers(0, 3)), max_size=12
)


@given(SAID, st.sampled_from(FinishReason))
def test_a_stream_tells_the_whole_reply(said: list[EventBeforeEnd], reason: FinishReason) -> None:
    events = streamed(*said, reason=reason)
    assert events[-1]["response"] == collected(*said, reason=reason)
    assert assembled(events) == events[-1]["response"]["output"]


def assembled(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items as a client puts them together from the pieces. Raises for an event about an item that is not open."""
    items: list[dict[str, Any]] = []
    open_index: int | None = None
    pieces: list[str] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if "output_index" not in event:
            assert open_index is None
            continue
        if kind == "output_item.added":
            assert open_index is None
            assert event["output_index"] == len(items)
            open_index, pieces = event["output_index"], []
        assert event["output_index"] == open_index
        if kind.endswith(".delta"):
            pieces.append(event["delta"])
        elif kind.endswith(("text.done", "arguments.done")):
            assert event.get("text", event.get("arguments")) == "".join(pieces)
        elif kind == "output_item.done":
            items.append(event["item"])
            assert event["item"].get("arguments", text_of(event["item"])) == "".join(pieces)
            open_index = None
    return items
