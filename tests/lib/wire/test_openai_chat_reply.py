import json
from math import inf
from typing import Any

import pytest

from neuron_lib import __version__
from neuron_lib.errors import EngineDead
from neuron_lib.types import (
    Finished,
    FinishReason,
    GenerationEvent,
    Likely,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)
from neuron_lib.wire.openai_chat_reply import ChatCollector, ChatStreamEncoder
from neuron_lib.wire.openai_errors import envelope
from neuron_lib.wire.reply_account import timings_of
from neuron_lib.wire.sse import DONE, KEEP_ALIVE

USAGE = Usage(prompt_tokens=10, completion_tokens=5, prefill_ms=20, decode_ms=50)
CALL = ToolCall(index=1, id="call_ab_1", name="f", arguments='{"a":1}')
HEAD = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"a/b",'
    b'"system_fingerprint":"neuron-%s","choices":[' % __version__.encode()
)


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
    def choice(delta: bytes, finish_reason: bytes = b"null", rest: bytes = b"") -> bytes:
        return HEAD + b'{"index":0,"delta":' + delta + b',"finish_reason":' + finish_reason + b"}]" + rest + b"}\n\n"

    usage = (
        b',"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,'
        b'"prompt_tokens_details":{"cached_tokens":0},'
        b'"helexa_timing":{"prefill_ms":20,"decode_ms":50,"prefill_tokens":10}},'
        b'"timings":{"cache_n":0,"prompt_n":10,"prompt_ms":20.0,"prompt_per_token_ms":2.0,"prompt_per_second":500.0,'
        b'"predicted_n":5,"predicted_ms":50.0,"predicted_per_token_ms":10.0,"predicted_per_second":100.0}'
    )
    assert encoder.opening() == choice(b'{"role":"assistant","content":""}')
    assert encoder.event(TextDelta("hi")) == choice(b'{"content":"hi"}')
    assert encoder.event(ReasoningDelta("hm")) == choice(b'{"reasoning_content":"hm"}')
    assert encoder.event(CALL) == choice(
        b'{"tool_calls":[{"index":1,"id":"call_ab_1","type":"function",'
        b'"function":{"name":"f","arguments":"{\\"a\\":1}"}}]}'
    )
    too_long = Finished(reasons=(FinishReason.LENGTH,), usage=USAGE)
    assert encoder.ending(too_long) == choice(b"{}", b'"length"', usage) + DONE
    asked = ChatStreamEncoder(id="chatcmpl-1", created=7, model="a/b", include_usage=True)
    assert asked.ending(too_long) == choice(b"{}", b'"length"') + HEAD + b"]" + usage + b"}\n\n" + DONE
    assert encoder.event(Started(prompt_tokens=7)) == b""
    assert DONE == b"data: [DONE]\n\n"
    assert KEEP_ALIVE == b":\n\n"


def test_every_event_has_the_usage_so_far_where_that_is_asked_for() -> None:
    so_far = iter(range(1, 9))
    encoder = ChatStreamEncoder(id="chatcmpl-1", created=7, model="a/b", continuous_usage=True, include_usage=True)
    encoder.follow(lambda: Usage(prompt_tokens=10, completion_tokens=next(so_far)))
    stream = encoder.opening() + encoder.event(TextDelta("a")) + encoder.event(TextDelta("b"))
    stream += encoder.ending(Finished(reasons=(FinishReason.STOP,), usage=USAGE))
    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in stream.removesuffix(DONE).split(b"\n\n")[:-1]]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 5]
    assert ["timings" in chunk for chunk in chunks] == [False] * 4 + [True]


def test_no_event_but_the_last_has_the_usage_where_that_is_not_asked_for(encoder: ChatStreamEncoder) -> None:
    encoder.follow(lambda: USAGE)
    assert b'"usage"' not in encoder.opening() + encoder.event(TextDelta("a"))


def test_times_of_no_tokens_and_tokens_of_no_time_have_the_rate_zero() -> None:
    timings = timings_of(Usage(prompt_tokens=4, completion_tokens=0, cached_tokens=4, prefill_ms=3))
    assert (timings.cache_n, timings.prompt_n, timings.prompt_per_token_ms, timings.prompt_per_second) == (4, 0, 0, 0)
    timings = timings_of(Usage(prompt_tokens=4, completion_tokens=7))
    assert (timings.predicted_n, timings.predicted_per_token_ms, timings.predicted_per_second) == (7, 0, 0)


def test_a_call_is_written_as_a_function_call_for_a_client_of_functions() -> None:
    events = (
        ToolCall(index=0, id="call_0", name="f", arguments="{}"),
        ToolCall(index=1, id="call_1", name="g", arguments="{}"),
    )
    finished = Finished(reasons=(FinishReason.TOOL_CALLS,), usage=USAGE)
    encoder = ChatStreamEncoder(id="chatcmpl-1", created=7, model="a/b", calls_functions=True)
    collector = ChatCollector(id="chatcmpl-1", created=7, model="a/b", calls_functions=True)
    stream = b"".join(map(encoder.event, events)) + encoder.ending(finished)
    for event in (*events, finished):
        collector.add(event)
    call, end = (json.loads(frame.removeprefix(b"data: ")) for frame in stream.split(b"\n\n")[:2])
    assert call["choices"][0]["delta"] == {"function_call": {"name": "f", "arguments": "{}"}}
    assert end["choices"][0]["finish_reason"] == "function_call"
    (choice,) = json.loads(collector.body())["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}
    }  # fmt: skip
    assert choice["finish_reason"] == "function_call"


def test_several_choices_open_speak_and_end_each_under_its_index() -> None:
    encoder = ChatStreamEncoder(id="chatcmpl-1", created=7, model="a/b", choices=2)
    stream = encoder.opening() + encoder.event(TextDelta("b", 1)) + encoder.event(ReasoningDelta("r", 1))
    stream += encoder.event(ToolCall(index=0, id="call", name="f", arguments="{}", choice=1))
    stream += encoder.ending(Finished(reasons=(FinishReason.STOP, FinishReason.TOOL_CALLS), usage=USAGE))
    *frames, done, end = stream.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
    choices = [chunk["choices"] for chunk in chunks]
    assert ["usage" in chunk for chunk in chunks] == [False] * 6 + [True]
    told = [(choice["index"], list(choice["delta"]), choice["finish_reason"]) for (choice,) in choices]
    assert told == [
        (0, ["role", "content"], None),
        (1, ["role", "content"], None),
        (1, ["content"], None),
        (1, ["reasoning_content"], None),
        (1, ["tool_calls"], None),
        (0, [], "stop"),
        (1, [], "tool_calls"),
    ]


def test_tokens_are_written_with_their_bytes_and_likeliest_rivals(encoder: ChatStreamEncoder) -> None:
    tokens = (TokenLogprob(b"h", -0.5, (Likely(b"h", -0.5), Likely(b"\xc3", -inf))), TokenLogprob("é".encode(), -1.0))
    assert encoder.event(TextDelta("hé", logprobs=tokens)) == HEAD + (
        b'{"index":0,"delta":{"content":"h\xc3\xa9"},"logprobs":{"content":['
        b'{"token":"h","logprob":-0.5,"bytes":[104],"top_logprobs":['
        b'{"token":"h","logprob":-0.5,"bytes":[104]},'
        b'{"token":"\xef\xbf\xbd","logprob":-9999.0,"bytes":[195]}]},'
        b'{"token":"\xc3\xa9","logprob":-1.0,"bytes":[195,169],"top_logprobs":[]}'
        b']},"finish_reason":null}]}\n\n'
    )


def test_no_text_can_break_the_framing(encoder: ChatStreamEncoder) -> None:
    text = "a\r\n\r\ndata: [DONE]\n\n\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00 é😀入✅"
    event = encoder.event(TextDelta(text))
    assert len(event.decode().splitlines()) == 2
    assert b"\r" not in event
    assert event.count(b"\n") == 2
    assert event.endswith(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"] == text


def test_reasoning_is_counted_only_where_there_is_some(encoder: ChatStreamEncoder) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, reasoning_tokens=3, prefill_ms=1, decode_ms=2)
    ending = encoder.ending(Finished(reasons=(FinishReason.STOP,), usage=usage))
    chunk = json.loads(ending.removesuffix(DONE).removeprefix(b"data: "))
    assert chunk["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
        "helexa_timing": {"prefill_ms": 1, "decode_ms": 2, "prefill_tokens": 6},
    }


@pytest.mark.parametrize("include_usage", [True, False])
def test_a_lost_reply_ends_too_long_with_its_usage_then_the_usual_envelope_and_no_done(*, include_usage: bool) -> None:
    encoder = ChatStreamEncoder(id="chatcmpl-1", created=7, model="a/b", choices=2, include_usage=include_usage)
    error = EngineDead("a/b", "SIGSEGV\nlast line")
    *frames, last, end = encoder.error(error, USAGE).split(b"\n\n")
    assert (last, end) == (b"data: " + envelope(error), b"")
    chunks = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
    ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert ends == ["length", "length"]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk] == [5]
    assert "usage" in chunks[-1]
    assert (chunks[-1]["choices"] == []) is include_usage


def test_a_whole_reply_is_one_body_with_the_reasoning_beside_the_answer() -> None:
    reply = collected(
        Started(prompt_tokens=10),
        ReasoningDelta("h"),
        ReasoningDelta("m"),
        TextDelta("one "),
        TextDelta("two"),
        Finished(reasons=(FinishReason.STOP,), usage=USAGE),
    )
    assert reply == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "a/b",
        "system_fingerprint": f"neuron-{__version__}",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "one two", "reasoning_content": "hm"},
                "finish_reason": "stop",
            },
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 0},
            "helexa_timing": {"prefill_ms": 20, "decode_ms": 50, "prefill_tokens": 10},
        },
        "timings": {
            "cache_n": 0,
            "prompt_n": 10,
            "prompt_ms": 20,
            "prompt_per_token_ms": 2,
            "prompt_per_second": 500,
            "predicted_n": 5,
            "predicted_ms": 50,
            "predicted_per_token_ms": 10,
            "predicted_per_second": 100,
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


def test_a_whole_reply_has_every_choice_with_its_own_text_calls_tokens_and_end() -> None:
    reply = collected(
        TextDelta("a", 0, (TokenLogprob(b"a", -1.0),)),
        TextDelta("c", 2),
        ReasoningDelta("why", 1),
        TextDelta("b", 0, (TokenLogprob(b"b", -2.0),)),
        ToolCall(index=0, id="call", name="f", arguments="{}", choice=2),
        Finished(reasons=(FinishReason.LENGTH, FinishReason.STOP, FinishReason.TOOL_CALLS), usage=USAGE),
    )
    assert [choice.pop("index") for choice in reply["choices"]] == [0, 1, 2]
    assert reply["choices"] == [
        {
            "message": {"role": "assistant", "content": "ab"},
            "logprobs": {
                "content": [
                    {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []},
                    {"token": "b", "logprob": -2.0, "bytes": [98], "top_logprobs": []},
                ]
            },
            "finish_reason": "length",
        },
        {"message": {"role": "assistant", "content": "", "reasoning_content": "why"}, "finish_reason": "stop"},
        {
            "message": {
                "role": "assistant",
                "content": "c",
                "tool_calls": [{"id": "call", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "tool_calls",
        },
    ]


def test_a_whole_reply_is_one_line_to_every_reader() -> None:
    collector = ChatCollector(id="chatcmpl-1", created=7, model="a/b")
    for event in (TextDelta("a\u2028\u2029\x85\n"), Finished(reasons=(FinishReason.STOP,), usage=USAGE)):
        collector.add(event)
    assert len(collector.body().decode().splitlines()) == 1
    assert json.loads(collector.body())["choices"][0]["message"]["content"] == "a\u2028\u2029\x85\n"


def test_an_unfinished_reply_has_no_body() -> None:
    with pytest.raises(ValueError, match="not finished"):
        collected(TextDelta("half"))
