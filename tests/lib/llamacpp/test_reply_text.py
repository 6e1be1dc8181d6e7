from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from neuron_lib.engine.protocol import Delta, Done, SequenceEvent
from neuron_lib.engine.sequence import Sampled, Sequence
from neuron_lib.llamacpp.reply_text import ReplyText
from neuron_lib.text.formats import FORMATS, OutputEvent
from neuron_lib.text.reasoning import REASONING_MARKERS
from neuron_lib.types import FinishReason, ReasoningDelta, TextDelta, TokenLogprob, ToolCall

CALL = '{"name":"f","arguments":{}}'


def token(piece: str | bytes) -> TokenLogprob:
    return TokenLogprob(piece.encode() if isinstance(piece, str) else piece, -1.0)


def frames(pieces: list[bytes], *, stop: tuple[str, ...] = (), drafted: int = 1) -> list[SequenceEvent]:
    """What the engine says when a model writes these tokens, `drafted` in each step, and then ends its reply."""
    sequence = Sequence(request=1, prompt=[0], max_tokens=1000, stop=stop)
    sampled = [Sampled(token=1, piece=piece, logprob=token(piece)) for piece in pieces]
    sampled.append(Sampled(token=2, piece=b"", is_eog=True))
    said: list[SequenceEvent] = []
    while not (said and isinstance(said[-1], Done)):
        step, sampled = sampled[:drafted], sampled[drafted:]
        said.append(sequence.accept(step, n_ctx=1 << 20))
    return said


def read(frames: Iterable[SequenceEvent], *, index: int = 0, **options: Any) -> tuple[ReplyText, list[OutputEvent]]:
    tools = [{"type": "function", "function": {"name": "f"}}]
    reader = FORMATS["hermes"].reader(**{"reasoning": REASONING_MARKERS[0], "tools": tools, **options})
    choice, events = ReplyText(index, reader), list[OutputEvent]()
    for frame in frames:
        match frame:
            case Delta():
                events += choice.feed(frame)
            case Done():
                events += choice.finish(frame)
    return choice, events


def shown(events: list[OutputEvent]) -> list[tuple[str, list[bytes]]]:
    """Each text with the pieces of the tokens it came with."""
    return [(event.text, [t.piece for t in event.logprobs]) for event in events if isinstance(event, TextDelta)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["Hel", "lo", "!"], [("Hel", [b"Hel"]), ("lo", [b"lo"]), ("!", [b"!"])]),
        # a character of four tokens
        ([b"\xf0", b"\x9f\x98", b"\x80", b"."], [("😀", [b"\xf0", b"\x9f\x98", b"\x80"]), (".", [b"."])]),
        # a character that is cut off, or is none
        (["a", b"\xf0\x9f"], [("a", [b"a"]), ("\ufffd", [b"\xf0\x9f"])]),
        ([b"\xff", "a", b"\xf0", "b"], [("\ufffd", [b"\xff"]), ("a", [b"a"]), ("\ufffdb", [b"\xf0", b"b"])]),
        # tokens without text, within and at the end
        (["a", "", "b", ""], [("a", [b"a"]), ("b", [b"", b"b"]), ("", [b""])]),
        # what might be a stop string, and is none, at once or in the end
        (["a E", "N", "T er"], [("a", [b"a E"]), (" E", []), ("N", [b"N"]), ("T er", [b"T er"])]),
        (["a E", "N"], [("a", [b"a E"]), (" E", []), ("N", [b"N"])]),
        # a stop string takes its tokens along, but not those that have shown something
        (["a E", "N", "D"], [("a", [b"a E"]), (" ", [])]),
        (["a", " END", " b"], [("a", [b"a"]), (" ", [b" END"])]),
        (["a", "END"], [("a", [b"a"])]),
        # what might be a marker, and is none
        (["a", "<", "b"], [("a", [b"a"]), ("<b", [b"<", b"b"])]),
        (["a", "<"], [("a", [b"a"]), ("<", [b"<"])]),
        # reasoning, its markers and the space behind are nobody's text
        (["<think>", "hm", "</think>", "\n\n", "yes"], [("yes", [b"yes"])]),
        (["<thi", "nk>", "hm", "</th", "ink>", "yes"], [("yes", [b"yes"])]),
        (["<think>", "</th", "ink>yes"], [("yes", [b"ink>yes"])]),
        (["<think>", "hm", ""], []),
        # so are tool calls
        (["a", "<tool_call>", CALL, "</tool_call>", "\n", "b"], [("a", [b"a"]), ("b", [b"b"])]),
        (["<tool_call>", CALL, "</tool_call>", ""], [("", [b""])]),
        # unless they cannot be read
        (
            ["<tool_call>", "no", "</tool_call>", "b"],
            [("<tool_call>no</tool_call>", [b"<tool_call>", b"no", b"</tool_call>"]), ("b", [b"b"])],
        ),
        (["<tool_call>", "no"], [("<tool_call>no", [b"<tool_call>", b"no"])]),
    ],
)
@pytest.mark.parametrize("drafted", [1, 2, 100])
def test_a_text_comes_with_the_tokens_that_it_was(
    pieces: list[str | bytes], expected: list[tuple[str, list[bytes]]], drafted: int
) -> None:
    spelled = [piece.encode() if isinstance(piece, str) else piece for piece in pieces]
    _, events = read(frames(spelled, stop=("END",), drafted=drafted))
    if drafted == 1:
        assert shown(events) == expected
    # However many tokens a step brings, the same ones are shown with the same text.
    assert [t for _, tokens in shown(events) for t in tokens] == [t for _, tokens in expected for t in tokens]
    assert "".join(text for text, _ in shown(events)) == "".join(text for text, _ in expected)


def test_reasoning_that_is_shown_keeps_its_tokens() -> None:
    pieces = [b"<think>", b"h", b"</th", b"m", b"</think>", b"\n", b"yes"]
    _, events = read(frames(pieces), include_thinking=True)
    assert [t for _, tokens in shown(events) for t in tokens] == pieces


@given(text=st.text(max_size=30), cuts=st.lists(st.integers(1, 5), max_size=60), drafted=st.integers(1, 5))
def test_without_markers_and_stops_every_token_comes_with_its_text(text: str, cuts: list[int], drafted: int) -> None:
    raw, pieces = text.encode(), list[bytes]()
    for size in cuts:
        pieces.append(raw[:size])
        raw = raw[size:]
    pieces.append(raw)
    _, events = read(frames(pieces, drafted=drafted), reasoning=None, tools=())
    assert "".join(text for text, _ in shown(events)) == text
    assert [t for _, tokens in shown(events) for t in tokens] == pieces


MARKERS = (b"<think>", b"</think>", b"<tool_call>", b"</tool_call>")
PIECES = st.sampled_from((*MARKERS, CALL.encode(), b"a", b" ", b"<", b"\xf0\x9f", b"\x98\x80", b"", b"END", b"E"))


@given(pieces=st.lists(PIECES, max_size=12), drafted=st.integers(1, 3), thinks=st.booleans(), inside=st.booleans())
def test_log_probabilities_change_no_event_and_no_token_comes_twice_or_out_of_order(
    pieces: list[bytes], *, drafted: int, thinks: bool, inside: bool
) -> None:
    options: dict[str, Any] = {"include_thinking": thinks, "starts_in_reasoning": inside, "token_hex": lambda _: "0"}
    said = frames(pieces, stop=("END",), drafted=drafted)
    bare = [
        Delta(frame.request, frame.text, frame.tokens) if isinstance(frame, Delta) else without_logprobs(frame)
        for frame in said
    ]
    with_tokens, without = read(said, **options)[1], read(bare, **options)[1]
    assert joined(with_tokens) == joined(without)
    assert "" not in [event.text for event in without if not isinstance(event, ToolCall)]
    remaining = iter(pieces)
    assert all(any(piece == other for other in remaining) for _, tokens in shown(with_tokens) for piece in tokens)


def without_logprobs(frame: SequenceEvent) -> SequenceEvent:
    assert isinstance(frame, Done)
    return replace(frame, logprobs=())


def joined(events: list[OutputEvent]) -> list[tuple[str, str]]:
    """Kinds and texts, neighbours of one kind joined."""
    result: list[tuple[str, str]] = []
    for event in events:
        kind, text = type(event).__name__, event.arguments if isinstance(event, ToolCall) else event.text
        if result and result[-1][0] == kind != "ToolCall":
            text = result.pop()[1] + text
        if text:
            result.append((kind, text))
    return result


def test_a_control_token_that_is_told_by_its_name_comes_with_the_text_behind_it() -> None:
    said = [Delta(1, "a", logprobs=(token("a"),)), Delta(1, "", logprobs=(token("<|end|>"),))]
    said += [Delta(1, "b", logprobs=(token("b"),)), Delta(1, "", logprobs=(token("<|end|>"),))]
    assert shown(read([*said, Delta(1, "c", logprobs=(token("c"),))])[1]) == [
        ("a", [b"a"]),
        ("b", [b"<|end|>", b"b"]),
        ("c", [b"<|end|>", b"c"]),
    ]


def test_every_event_says_of_which_choice_it_is() -> None:
    pieces = [b"<think>", b"hm", b"</think>", b"a", b"<tool_call>", CALL.encode(), b"</tool_call>", b""]
    choice, events = read(frames(pieces), index=3)
    assert [type(event) for event in events] == [ReasoningDelta, TextDelta, ToolCall, TextDelta]
    assert {event.choice for event in events} == {3}
    assert repr(choice) == "<ReplyText 3 tool_calls 8 tokens>"


@pytest.mark.parametrize(
    ("ended", "called", "reason"),
    [
        (FinishReason.STOP, False, FinishReason.STOP),
        (FinishReason.STOP, True, FinishReason.TOOL_CALLS),
        (FinishReason.LENGTH, True, FinishReason.LENGTH),
    ],
)
def test_a_call_is_the_reason_of_a_reply_that_was_not_cut_off(
    ended: FinishReason, reason: FinishReason, *, called: bool
) -> None:
    done = Done(
        request=1,
        reason=ended,
        text=f"<tool_call>{CALL}</tool_call>" if called else "",
        prompt_tokens=1,
        completion_tokens=1,
        prefill_s=0,
        decode_s=0,
    )
    assert read([done])[0].reason is reason


@pytest.mark.parametrize(
    ("reply", "reason", "calls"),
    [
        (f"<tool_call>{CALL}", FinishReason.TOOL_CALLS, 1),
        (f"<think>hm<tool_call>{CALL}</tool_call>", FinishReason.TOOL_CALLS, 1),
        (f"<tool_call>[{CALL}, {CALL}]</tool_call>", FinishReason.TOOL_CALLS, 2),
        ('<tool_call>{"name":"f","city":"Rome"}</tool_call>', FinishReason.STOP, 0),
        (f"<think>hm<tool_call>{CALL} I could</think>no", FinishReason.STOP, 0),
    ],
)
def test_the_reason_follows_the_calls_that_are_understood(reply: str, reason: FinishReason, calls: int) -> None:
    choice, events = read(frames([char.encode() for char in reply]))
    assert choice.reason is reason
    assert len([event for event in events if isinstance(event, ToolCall)]) == calls


@pytest.mark.parametrize("must_call", [True, False])
def test_what_is_left_of_a_reply_that_must_call_and_was_cut_is_no_text(*, must_call: bool) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    choice = ReplyText(0, FORMATS["hermes"].reader(tools=tools), must_call=must_call)
    done = Done(
        request=1,
        reason=FinishReason.LENGTH,
        text="",
        prompt_tokens=1,
        completion_tokens=1,
        prefill_s=0,
        decode_s=0,
    )
    events = choice.feed(Delta(1, "<")) + choice.finish(done)
    assert [text for text, _ in shown(events)] == ([] if must_call else ["<"])


@pytest.mark.parametrize("must_call", [True, False])
@pytest.mark.parametrize(
    ("name", "reply", "calls"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "', 0),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": "Par', 0),
        ("hermes", '<tool_call>\n{"name": "f", "arguments": {"a": "Paris"}}\n', 1),
        ("qwen_xml", "<tool_call>\n<function=f>\n<parameter=a>\nPar", 0),
    ],
)
def test_a_call_in_which_a_stop_string_ends_the_reply_is_not_shown(
    name: str,
    reply: str,
    calls: int,
    must_call: bool,  # noqa: FBT001 - a parameter
) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}}]
    choice = ReplyText(0, FORMATS[name].reader(tools=tools), must_call=must_call)
    done = Done(
        request=1,
        reason=FinishReason.STOP,
        text="",
        prompt_tokens=1,
        completion_tokens=1,
        prefill_s=0,
        decode_s=0,
        stop="is",
    )
    events = choice.feed(Delta(1, reply)) + choice.finish(done)
    assert "".join(text for text, _ in shown(events)) == ""
    assert sum(isinstance(event, ToolCall) for event in events) == calls
    assert choice.reason is (FinishReason.TOOL_CALLS if calls else FinishReason.STOP)
