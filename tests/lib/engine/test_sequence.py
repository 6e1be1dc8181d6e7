from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.protocol import Delta, Done, SequenceEvent
from neuron_lib.engine.sequence import Sampled, Sequence
from neuron_lib.types import FinishReason, TokenLogprob


def sequence(*, max_tokens: int = 100, stop: tuple[str, ...] = (), prompt: int = 3) -> Sequence:
    return Sequence(request=1, prompt=list(range(prompt)), max_tokens=max_tokens, stop=stop)


def speak(seq: Sequence, *pieces: bytes, n_ctx: int = 1000) -> list[SequenceEvent]:
    """Accept one token per piece until one ends the reply; after the pieces comes an end-of-generation token."""
    events: list[SequenceEvent] = []
    for token, piece in enumerate((*pieces, None)):
        events.append(seq.accept([Sampled(token, piece or b"", is_eog=piece is None)], n_ctx=n_ctx))
        if not isinstance(events[-1], Delta):
            break
    return events


def said(*pieces: bytes) -> list[Sampled]:
    """Tokens that one step brings, numbered from 0."""
    return [Sampled(token, piece) for token, piece in enumerate(pieces)]


def text_of(events: list[SequenceEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta | Done))


def last(events: list[SequenceEvent]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def test_a_code_point_cut_by_tokens_comes_out_whole() -> None:
    events = speak(sequence(), "é".encode()[:1], "é".encode()[1:], b"!")
    assert [event.text for event in events if isinstance(event, Delta)] == ["", "é", "!"]


@given(st.text(), st.lists(st.integers(0, 50)))
def test_the_text_does_not_depend_on_where_tokens_cut_it(text: str, cuts: list[int]) -> None:
    raw = text.encode()
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    pieces = [raw[start:end] for start, end in pairwise(edges)]
    assert text_of(speak(sequence(), *pieces)) == text


@given(st.lists(st.binary(max_size=5)))
def test_any_bytes_make_text(pieces: list[bytes]) -> None:
    assert text_of(speak(sequence(), *pieces)) == b"".join(pieces).decode("utf-8", "replace")


def test_an_unfinished_code_point_at_the_end_is_replaced() -> None:
    assert text_of(speak(sequence(max_tokens=2), b"a", "é".encode()[:1])) == "a\ufffd"


def test_a_stop_string_across_tokens_ends_the_reply_without_itself() -> None:
    events = speak(sequence(stop=("two", "END")), b"one E", b"N", b"D two", b"never")
    assert last(events).stop == "END"
    assert text_of(events) == "one "
    assert last(events).reason is FinishReason.STOP
    assert last(events).completion_tokens == 3


def test_a_token_that_stops_ends_the_reply_without_itself() -> None:
    stopped = Sequence(request=1, prompt=[0], max_tokens=9, stop_token_ids=(1, 7))
    events = speak(stopped, b"one ", b"two", b"never")
    assert text_of(events) == "one "
    assert (last(events).reason, last(events).completion_tokens) == (FinishReason.STOP, 1)


def test_a_beginning_of_a_stop_string_that_comes_to_nothing_is_not_lost() -> None:
    events = speak(sequence(stop=("END",)), b"one E", b"N")
    assert [event.text for event in events if isinstance(event, Delta)] == ["one ", ""]
    assert text_of(events) == "one EN"


def test_a_stop_string_completed_by_flushed_bytes_still_counts() -> None:
    assert text_of(speak(sequence(stop=("\ufffd",)), b"a", b"\xc3")) == "a"


def test_end_of_generation_at_once_is_an_empty_reply() -> None:
    (done,) = speak(sequence())
    assert isinstance(done, Done)
    assert (done.text, done.completion_tokens, done.reason) == ("", 0, FinishReason.STOP)


def test_the_end_of_generation_token_is_not_counted() -> None:
    assert last(speak(sequence(), b"a", b"b")).completion_tokens == 2


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_max_tokens_is_exact(limit: int) -> None:
    events = speak(sequence(max_tokens=limit), b"a", b"b", b"c", b"d")
    assert text_of(events) == "abc"[:limit]
    assert last(events).reason is FinishReason.LENGTH
    assert last(events).completion_tokens == limit


def test_a_stop_string_in_the_last_allowed_token_is_a_stop() -> None:
    end = last(speak(sequence(max_tokens=1, stop=("x",)), b"x"))
    assert (end.reason, end.stop) == (FinishReason.STOP, "x")


def test_a_full_context_ends_the_reply() -> None:
    events = speak(sequence(prompt=3), b"a", b"b", b"c", n_ctx=5)
    assert text_of(events) == "ab"
    assert last(events).reason is FinishReason.LENGTH


def test_a_prompt_that_fills_the_context_still_gets_one_token() -> None:
    assert last(speak(sequence(prompt=5), b"a", n_ctx=5)).completion_tokens == 1


def test_several_tokens_of_one_step_are_one_event() -> None:
    seq = sequence()
    assert seq.accept(said(b"a", b"b", b"c"), n_ctx=99) == Delta(1, "abc", tokens=3)
    assert (seq.generated, seq.tokens) == (3, [0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("ended_by", "text", "reason"),
    [
        ({"stop": ("b",)}, "a", FinishReason.STOP),
        ({"max_tokens": 2}, "ab", FinishReason.LENGTH),
    ],
)
def test_what_a_step_brings_behind_the_end_is_not_said_and_not_counted(
    ended_by: dict[str, Any], text: str, reason: FinishReason
) -> None:
    seq = sequence(**ended_by)
    done = seq.accept(said(b"a", b"b", b"c"), n_ctx=99)
    assert isinstance(done, Done)
    assert (done.text, done.reason, done.completion_tokens) == (text, reason, 2)
    assert seq.tokens == [0, 1, 2, 0, 1]


def test_the_last_token_that_a_grammar_allows_is_said_and_ends_the_reply() -> None:
    done = sequence().accept([Sampled(0, b"{"), Sampled(1, b"}", is_last=True), Sampled(2, b"!")], n_ctx=99)
    assert isinstance(done, Done)
    assert (done.text, done.reason, done.completion_tokens) == ("{}", FinishReason.STOP, 2)


def test_log_probabilities_go_with_the_step_that_brought_their_tokens() -> None:
    seq = sequence()
    certain = [TokenLogprob(piece, 0.0) for piece in (b"a", b"\xc3", b"\xa9")]
    first, second, third = (Sampled(at, given.piece, logprob=given) for at, given in enumerate(certain))
    delta = seq.accept([first, second], n_ctx=99)
    assert isinstance(delta, Delta)
    assert (delta.text, delta.logprobs) == ("a", tuple(certain[:2]))
    done = seq.accept([third, Sampled(3, b"", is_eog=True)], n_ctx=99)
    assert isinstance(done, Done)
    assert (done.text, done.logprobs) == ("é", (certain[2],))


def test_events_say_which_choice_they_belong_to() -> None:
    seq = Sequence(request=4, choice=2, prompt=[1], max_tokens=2)
    events = speak(seq, b"a", b"b")
    assert [(event.request, event.choice) for event in events if isinstance(event, Delta | Done)] == [(4, 2)] * 2


def test_what_is_left_to_compute_is_the_prompt_then_the_one_token_just_made() -> None:
    seq = sequence(prompt=5)
    assert seq.remaining == 5
    seq.computed = 5
    seq.accept(said(b"a"), n_ctx=99)
    assert seq.remaining == 1


@pytest.mark.parametrize(("reused", "cached"), [((), 0), ((3,), 3), ((3, 4), 3), ((3, 0), 0), ((0, 4), 0)])
def test_cached_is_what_was_never_computed_for_this_sequence(reused: tuple[int, ...], cached: int) -> None:
    seq = sequence(prompt=5)
    for tokens in reused:  # the second time after a preemption
        seq.begin(reused=tokens)
        assert seq.computed == tokens
    assert last(speak(seq)).cached_tokens == cached
