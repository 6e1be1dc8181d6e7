import json
from typing import Any

import pytest

from neuron_lib.errors import EngineDead
from neuron_lib.types import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from neuron_lib.wire.openai_chat_reply import DONE, KEEP_ALIVE, ChatCollector, ChatStreamEncoder
from neuron_lib.wire.openai_errors import envelope

USAGE = Usage(prompt_tokens=10, completion_tokens=5, prefill_ms=20, decode_ms=50)
CALL = ToolCall(index=1, id="call_ab_1", name="f", arguments='{"a":1}')
HEAD = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"a/b","choices":['


@pytest.fixture
def encoder() -> ChatStreamEncoder:
    return ChatStreamEncoder(id="chatcmpl-1", created=7, model="a/b")


def collected(*events: GenerationEvent) -> dict[str, Any]:
    collector = ChatCollector(id="chatcmpl-1", created=7, model="a/b")
    for event in events:
        collector.add(event)
    body: dict[str, Any] = json.loads(collector.body())
    return body


def test_each_event_is_written_byte_for_byte(encoder: ChatStreamEncoder) -> None:
    def choice(delta: bytes, finish_reason: bytes = b"null") -> bytes:
        return HEAD + b'{"index":0,"delta":' + delta + b',"finish_reason":' + finish_reason + b"}]}\n\n"

    assert encoder.role() == choice(b'{"role":"assistant"}')
    assert encoder.event(TextDelta("hi")) == choice(b'{"content":"hi"}')
    assert encoder.event(ReasoningDelta("hm")) == choice(b'{"reasoning_content":"hm"}')
    assert encoder.event(CALL) == choice(
        b'{"tool_calls":[{"index":1,"id":"call_ab_1","type":"function",'
        b'"function":{"name":"f","arguments":"{\\"a\\":1}"}}]}'
    )
    assert encoder.finish(FinishReason.LENGTH) == choice(b"{}", b'"length"')
    assert encoder.usage(USAGE) == HEAD + (
        b'],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        b'"helexa_timing":{"prefill_ms":20,"decode_ms":50,"prefill_tokens":10}}}\n\n'
    )
    assert DONE == b"data: [DONE]\n\n"
    assert KEEP_ALIVE == b":\n\n"


def test_no_text_can_break_the_framing(encoder: ChatStreamEncoder) -> None:
    text = "a\r\n\r\ndata: [DONE]\n\n\u2028\x00 é😀"
    event = encoder.event(TextDelta(text))
    assert b"\r" not in event
    assert event.count(b"\n") == 2
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == text


def test_details_of_the_usage_are_there_only_when_they_say_something(encoder: ChatStreamEncoder) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, reasoning_tokens=3, prefill_ms=1, decode_ms=2)
    chunk = json.loads(encoder.usage(usage).removeprefix(b"data: "))
    assert chunk["choices"] == []
    assert chunk["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
        "helexa_timing": {"prefill_ms": 1, "decode_ms": 2, "prefill_tokens": 6},
    }


def test_a_lost_reply_ends_in_an_error_event_with_the_usual_envelope(encoder: ChatStreamEncoder) -> None:
    event = encoder.error(envelope(EngineDead("a/b", "SIGSEGV\nlast line")))
    assert event.startswith(b'data: {"error":{"message":')
    assert event.count(b"\n") == 2
    assert event.endswith(b"\n\n")


def test_a_whole_reply_is_one_body_without_the_reasoning() -> None:
    reply = collected(
        Started(prompt_tokens=10),
        ReasoningDelta("hm"),
        TextDelta("one "),
        TextDelta("two"),
        Finished(reasons=(FinishReason.STOP,), usage=USAGE),
    )
    assert reply == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "a/b",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "one two"}, "finish_reason": "stop"},
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "helexa_timing": {"prefill_ms": 20, "decode_ms": 50, "prefill_tokens": 10},
        },
    }


def test_a_whole_reply_of_calls_has_empty_content() -> None:
    reply = collected(CALL, Finished(reasons=(FinishReason.TOOL_CALLS,), usage=USAGE))
    assert reply["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_ab_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            ],
        },
        "finish_reason": "tool_calls",
    }


def test_an_unfinished_reply_has_no_body() -> None:
    with pytest.raises(ValueError, match="not finished"):
        collected(TextDelta("half"))
