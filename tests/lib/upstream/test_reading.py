"""What a stream means. The neuron's own encoder writes the streams that are read back."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import EngineFailed, NeuronError
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
from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.reading import ReplyReading
from neuron_lib.upstream.sse import SseReader
from neuron_lib.wire.openai_chat_reply import ChatStreamEncoder
from neuron_lib.wire.openai_completions_reply import CompletionStreamEncoder

USAGE = Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=2, prefill_ms=20, decode_ms=30)


def reading(choices: int = 1, **other: Any) -> ReplyReading:
    return ReplyReading(choices=choices, prompt_tokens=3, token_hex=lambda count: "ab" * count, **other)


def read(stream: bytes, *, choices: int = 1, **other: Any) -> list[GenerationEvent]:
    reader, made = SseReader(), reading(choices, **other)
    events = [event for data in reader.feed(stream) for event in made.feed(data)]
    return events + [event for data in reader.end() for event in made.feed(data)] + made.end()


def chunk(**keys: Any) -> bytes:
    return json.dumps(keys).encode()


def delta(finish_reason: str | None = None, index: int = 0, **keys: Any) -> bytes:
    return chunk(choices=[{"index": index, "delta": keys, "finish_reason": finish_reason}])


texts = st.text(min_size=1, max_size=5)
arguments = st.dictionaries(texts, st.integers() | texts, max_size=2).map(json.dumps)


@st.composite
def replies(draw: st.DrawFn) -> tuple[int, list[GenerationEvent]]:
    choices = draw(st.integers(1, 3))
    calls = [0] * choices
    events: list[GenerationEvent] = [Started(prompt_tokens=9)]
    for _ in range(draw(st.integers(0, 12))):
        choice = draw(st.integers(0, choices - 1))
        match draw(st.integers(0, 2)):
            case 0:
                events.append(TextDelta(draw(texts), choice))
            case 1:
                events.append(ReasoningDelta(draw(texts), choice))
            case _:
                call = ToolCall(
                    index=calls[choice], id=f"c{calls[choice]}", name="f", arguments=draw(arguments), choice=choice
                )
                calls[choice] += 1
                events.append(call)
    reasons = tuple(FinishReason.TOOL_CALLS if count else draw(st.sampled_from(["stop", "length"])) for count in calls)
    events.append(Finished(reasons=tuple(map(FinishReason, reasons)), usage=USAGE))
    return choices, events


def written(choices: int, events: list[GenerationEvent]) -> bytes:
    encoder = ChatStreamEncoder(id="x", created=1, model="m", choices=choices, include_usage=True)
    *others, last = events
    assert isinstance(last, Finished)
    encoded = [encoder.event(event) for event in others if not isinstance(event, Finished)]
    return encoder.opening() + b"".join(encoded) + encoder.ending(last)


def by_choice(events: list[GenerationEvent], choice: int) -> list[GenerationEvent]:
    """The events of one choice, with neighbouring pieces of text joined."""
    joined: list[GenerationEvent] = []
    for event in events:
        if isinstance(event, Started | Finished) or event.choice != choice:  # type: ignore[union-attr] # all others have it
            continue
        joined.append(event)
    return joined


@given(replies())
def test_what_a_neuron_writes_is_read_back(reply: tuple[int, list[GenerationEvent]]) -> None:
    choices, events = reply
    found = read(written(choices, events), choices=choices)
    assert isinstance(found[0], Started)
    assert found[-1] == events[-1]
    for choice in range(choices):
        assert by_choice(found, choice) == by_choice(events, choice)


def test_the_usage_so_far_tells_the_tokens_of_the_prompt_at_the_start() -> None:
    encoder = ChatStreamEncoder(id="x", created=1, model="m", include_usage=True, continuous_usage=True)
    encoder.follow(lambda: USAGE)
    found = read(
        encoder.opening()
        + encoder.event(TextDelta("a"))
        + encoder.ending(Finished(reasons=(FinishReason.STOP,), usage=USAGE))
    )
    assert found[0] == Started(prompt_tokens=9)


def test_the_log_probabilities_of_a_neuron_are_read_back() -> None:
    tokens = (TokenLogprob(b"\xe2\x82", -0.5, (Likely(b"\xe2\x82", -0.5), Likely(b"b", -1.0))), TokenLogprob(b"c", 0.0))
    finished = Finished(reasons=(FinishReason.STOP,), usage=USAGE)
    chat = ChatStreamEncoder(id="x", created=1, model="m")
    assert read(chat.event(TextDelta("x", 0, tokens)) + chat.ending(finished))[1] == TextDelta("x", 0, tokens)
    completion = CompletionStreamEncoder(id="x", created=1, model="m")
    (event,) = (
        each
        for each in read(completion.event(TextDelta("x", 0, tokens)) + completion.ending(finished))
        if isinstance(each, TextDelta) and each.text
    )
    assert [token.piece for token in event.logprobs] == [b"\xe2\x82", b"c"]
    assert [token.logprob for token in event.logprobs] == [-0.5, 0.0]


def test_pieces_of_calls_become_whole_calls() -> None:
    made = reading()
    pieces = [
        delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"x"'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "g", "arguments": ""}}]),
        delta(finish_reason="tool_calls"),
    ]
    events = [event for piece in pieces for event in made.feed(piece)]
    assert events == [
        Started(prompt_tokens=3),
        ToolCall(index=0, id="a", name="f", arguments='{"x":1}'),
        ToolCall(index=1, id="b", name="g", arguments="{}"),
    ]


def test_whole_calls_that_all_have_the_index_0_are_told_apart_by_their_ids() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": "{}"}}
    made = reading()
    events = [*made.feed(delta(tool_calls=[call | {"id": "a"}])), *made.feed(delta(tool_calls=[call | {"id": "b"}]))]
    assert events + made.feed(delta(finish_reason="stop")) == [
        Started(prompt_tokens=3),
        ToolCall(index=0, id="a", name="f", arguments="{}"),
        ToolCall(index=1, id="b", name="f", arguments="{}"),
    ]
    (finished,) = made.feed(b"[DONE]")
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    "call",
    [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}},
        {"function": {"name": "f", "arguments": '{"x":1}'}},
    ],
)
def test_a_call_may_lack_an_index_or_an_id_and_have_an_object_as_arguments(call: dict[str, Any]) -> None:
    made = reading()
    (_, event) = made.feed(delta(tool_calls=[call], finish_reason="tool_calls"))
    assert isinstance(event, ToolCall)
    assert json.loads(event.arguments) == {"x": 1}
    assert event.id


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_read_from_either_field_and_shown_on_request(name: str) -> None:
    pieces = [chunk(choices=[{"delta": {name: text}}]) for text in ("hm", "!")]
    pieces = [*pieces, delta(content="yes", finish_reason="stop")]
    made, shown = reading(), reading(include_thinking=True)
    assert [event for piece in pieces for event in made.feed(piece)][1:] == [
        ReasoningDelta("hm"),
        ReasoningDelta("!"),
        TextDelta("yes"),
    ]
    texts = [event.text for piece in pieces for event in shown.feed(piece) if isinstance(event, TextDelta)]
    assert "".join(texts) == "<think>\nhm!\n</think>\n\nyes"


def test_a_missing_usage_is_counted_and_marked() -> None:
    made = reading()
    for text in "abc":
        made.feed(delta(content=text))
    made.feed(delta(finish_reason="stop"))
    (finished,) = made.feed(b"[DONE]")
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(prompt_tokens=3, completion_tokens=3, is_estimated=True)


def test_a_reply_that_came_whole_is_read_as_one_piece() -> None:
    message = {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    body = chunk(
        choices=[{"index": 0, "message": message, "finish_reason": "stop"}],
        usage={"prompt_tokens": 2, "completion_tokens": 1},
    )
    made = reading()
    events = made.feed(body) + made.end()
    assert events[:3] == [Started(prompt_tokens=2), ReasoningDelta("hm"), TextDelta("hi")]
    assert made.usage == Usage(prompt_tokens=2, completion_tokens=1)


def test_a_stop_string_of_the_request_is_told_and_no_other() -> None:
    for word, told in (("END", ("END",)), ("model's own", ())):
        made = reading(stop=("END",))
        made.feed(chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": word}]))
        (finished,) = made.feed(b"[DONE]")
        assert isinstance(finished, Finished)
        assert finished.stop_strings == told


def test_the_end_of_the_bytes_is_the_end_of_a_reply_only_if_all_choices_have_ended() -> None:
    made = reading(2)
    made.feed(delta(content="a", finish_reason="stop"))
    with pytest.raises(EngineFailed, match="ended before the reply did"):
        made.end()
    made = reading()
    made.feed(delta(content="a", finish_reason="stop"))
    assert isinstance(made.end()[-1], Finished)


@pytest.mark.parametrize(
    "data",
    [
        b"no json",
        b"[1]",
        b"\xff",
        b'{"choices": 7}',
        b'{"choices":[{"index":-1}]}',
        b'{"choices":[{"index":1}]}',
        b'{"error":"out of memory"}',
        b'{"error":{"message":"out of memory","code":500}}',
        b'{"object":"error","message":"out of memory"}',
        b'{"choices":[{"finish_reason":"content_filter"}]}',
        b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}',
        b'{"choices":[{"finish_reason":"stop","delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{"}}]}}]}',
        b"[" * 200_000,
        b'{"choices":' + b"[" * 200_000,
        b"[DONE]",
    ],
)
def test_what_is_no_reply_is_a_failure(data: bytes) -> None:
    made = reading()
    with pytest.raises(EngineFailed):
        made.feed(data)


def test_a_call_that_was_cut_off_because_the_reply_became_too_long_is_dropped() -> None:
    made = reading()
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x'}}
    events = made.feed(delta(tool_calls=[call])) + made.feed(delta(finish_reason="length")) + made.feed(b"[DONE]")
    assert [type(event) for event in events] == [Started, Finished]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "index", "content", "tool_calls", "function", "name", "arguments", "usage"]
            ),
            inner,
            max_size=3,
        )
    ),
)


@given(st.lists(json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40), max_size=8))
def test_any_stream_is_events_or_an_error_of_ours(stream: list[bytes]) -> None:
    made = reading(2)
    try:
        for data in stream:
            made.feed(data)
        made.end()
    except NeuronError:
        pass
    assert made.usage.completion_tokens >= 0


LOGPROBS = {"content": [{"token": "a", "logprob": -1.0}]}


def call_piece(index: int | None = 0, **function: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": function}]}


def piece(finish_reason: str | None = None, *, logprobs: Any = None, **keys: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": keys, "finish_reason": finish_reason, "logprobs": logprobs}])


@pytest.mark.parametrize("between", [{"logprobs": LOGPROBS}, {"content": "\n"}, {"content": ""}])
def test_log_probabilities_and_line_ends_do_not_cut_a_call_in_two(between: dict[str, Any]) -> None:
    made = reading()
    events = made.feed(piece(**call_piece(name="f", arguments="")))
    events += made.feed(piece(**call_piece(arguments='{"a":'), **between))
    events += made.feed(piece(**call_piece(arguments="1}"), **between))
    events += made.feed(piece("tool_calls")) + made.end()
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == [("f", '{"a":1}')]


def test_log_probabilities_do_not_end_reasoning_that_is_shown() -> None:
    made = reading(include_thinking=True)
    events = made.feed(piece(reasoning_content="A", logprobs=LOGPROBS))
    events += made.feed(piece(reasoning_content="B", logprobs=LOGPROBS))
    events += made.feed(piece("stop", content="C", logprobs=LOGPROBS)) + made.end()
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    assert text == "<think>\nAB\n</think>\n\nC"
    assert made.usage.completion_tokens == 3


def test_whole_calls_without_index_and_id_are_calls_of_their_own() -> None:
    calls = [{"id": "", "function": {"name": name, "arguments": "{}"}} for name in ("f", "f", "g")]
    made = reading()
    events = made.feed(chunk(choices=[{"message": {"tool_calls": calls}, "finish_reason": "tool_calls"}])) + made.end()
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["f", "f", "g"]


def test_a_piece_of_a_call_that_says_nothing_is_nothing() -> None:
    made = reading()
    events = made.feed(piece(**call_piece(name="f", arguments="{}")))
    events += made.feed(piece(**call_piece(1, name="g", arguments="{}")))
    events += made.feed(piece(**call_piece(0, arguments="")))
    events += made.feed(piece("tool_calls")) + made.end()
    assert [event.name for event in events if isinstance(event, ToolCall)] == ["f", "g"]


@pytest.mark.parametrize("arguments", [b'"\xff"', b'{"a":"\xff"}'])
def test_arguments_that_are_no_text_are_a_failure_of_the_server(arguments: bytes) -> None:
    body = b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":%s}}]}}]}' % arguments
    with pytest.raises(EngineFailed):
        reading().feed(body)


@pytest.mark.parametrize("word", ["insufficient_system_resource", "malformed_function_call", "timeout", "cancelled"])
def test_a_reply_that_the_server_could_not_finish_is_no_whole_one(word: str) -> None:
    with pytest.raises(EngineFailed, match=word):
        reading().feed(delta(word, content="half"))


def test_an_empty_usage_does_not_take_the_place_of_one_with_numbers() -> None:
    made = reading()
    made.feed(chunk(choices=[{"delta": {"content": "a"}}], usage={"prompt_tokens": 5, "completion_tokens": 1}))
    made.feed(chunk(choices=[{"delta": {}, "finish_reason": "stop"}], usage={}))
    assert (made.usage.prompt_tokens, made.usage.is_estimated) == (5, False)


def test_cached_tokens_are_those_of_the_timings_where_the_usage_has_none() -> None:
    made = reading()
    made.feed(chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 1}, timings={"cache_n": 4}))
    assert made.usage.cached_tokens == 4


@pytest.mark.parametrize(
    "event", [{"error": {"message": "bad key sk-12345678"}}, {"object": "error", "message": "sk-12345678"}]
)
def test_the_key_is_covered_in_the_error_of_a_stream(event: dict[str, Any]) -> None:
    address = UpstreamAddress(url="http://127.0.0.1:1", model="m", token="sk-12345678")  # noqa: S106 - the key of a test
    with pytest.raises(EngineFailed) as caught:
        reading(cover=address.without_token).feed(chunk(**event))
    assert "***" in str(caught.value)
    assert "sk-12345678" not in str(caught.value)


def test_an_event_of_more_pieces_than_a_server_sends_is_not_read() -> None:
    with pytest.raises(EngineFailed, match="too many"):
        reading().feed(chunk(choices=[{}] * 1000))
    with pytest.raises(EngineFailed, match="calls of tools"):
        reading().feed(chunk(choices=[{"delta": {"tool_calls": [{}] * 2000}}]))
