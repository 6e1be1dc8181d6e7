import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.text.formats import FORMATS, OutputEvent
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall
from tests.examples import examples
from tests.lib.text.formats.family_samples import SAMPLES as FAMILY_SAMPLES
from tests.lib.text.formats.family_samples import TOOLS, Sample
from tests.lib.text.formats.marker_samples import MARKER_SAMPLES

SAMPLES = (*FAMILY_SAMPLES, *MARKER_SAMPLES)
_IDS = [f"{sample.format}-{number}" for number, sample in enumerate(SAMPLES)]


def read(sample: Sample, pieces: Iterable[str], *, is_cut: bool = False, **changes: Any) -> list[OutputEvent]:
    """The events of a reply that comes in `pieces`, with neighbours of one kind joined."""
    format_ = FORMATS[sample.format]
    given_ = {"tools": TOOLS, "reasoning": format_.reasoning or sample.think, "starts_in_reasoning": sample.is_open}
    reader = format_.reader(**{**given_, **changes}, token_hex=lambda count: "0" * 2 * count)
    events = [event for piece in pieces for event in reader.feed(piece)] + reader.finish(is_cut=is_cut)
    assert all(event.text for event in events if isinstance(event, TextDelta | ReasoningDelta))
    assert reader.tool_calls_seen == sum(isinstance(event, ToolCall) for event in events)
    return list(joined(events))


def joined(events: Iterable[OutputEvent]) -> Iterable[OutputEvent]:
    for kind, group in groupby(events, type):
        if kind is ToolCall:
            yield from group
        else:
            yield kind("".join(event.text for event in group))  # type: ignore[union-attr]  # of one kind


def summary(events: Iterable[OutputEvent]) -> tuple[str, str, list[tuple[str, Any]]]:
    answer = "".join(event.text for event in events if isinstance(event, TextDelta))
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    return answer, reasoning, [(e.name, json.loads(e.arguments)) for e in events if isinstance(e, ToolCall)]


def wanted(sample: Sample) -> tuple[str, str, list[tuple[str, Any]]]:
    return sample.answer, sample.reasoning, list(sample.calls)


@pytest.mark.parametrize("sample", SAMPLES, ids=_IDS)
def test_a_reply_of_a_family_is_read(sample: Sample) -> None:
    assert summary(read(sample, [sample.reply])) == wanted(sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=_IDS)
def test_a_reply_that_comes_by_the_character_is_read_like_a_whole_one(sample: Sample) -> None:
    assert read(sample, sample.reply) == read(sample, [sample.reply])


@given(st.sampled_from(SAMPLES), st.data())
def test_the_cuts_of_a_reply_do_not_matter(sample: Sample, data: st.DataObject) -> None:
    size = len(sample.reply)
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=8)))
    pieces = [sample.reply[begin:end] for begin, end in zip([0, *cuts], [*cuts, size], strict=True)]
    assert read(sample, pieces) == read(sample, [sample.reply])


@st.composite
def mixtures(draw: st.DrawFn) -> Sample:
    """A reply of parts of replies of one family, and of its markers."""
    name = draw(st.sampled_from(sorted({sample.format for sample in SAMPLES})))
    replies = [sample.reply for sample in SAMPLES if sample.format == name]
    format_ = FORMATS[name]
    around = format_.reasoning or SAMPLES[0].think
    marks = st.sampled_from((*format_.shown_tokens, around.open, around.close, " ", "\n", "{", "}", '"', "get_weather"))

    @st.composite
    def part(draw: st.DrawFn) -> str:
        reply = draw(st.sampled_from(replies))
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(reply))] * 2)))
        return reply[begin:end]

    reply = "".join(draw(st.lists(st.one_of(marks, part(), st.text(max_size=5)), max_size=8)))
    return Sample(name, reply, is_open=draw(st.booleans()))


@settings(max_examples=examples(300))
@given(mixtures(), st.booleans())
def test_no_reply_is_read_differently_in_pieces(sample: Sample, is_cut: bool) -> None:  # noqa: FBT001 - drawn
    whole = read(sample, [sample.reply], is_cut=is_cut)
    assert read(sample, sample.reply, is_cut=is_cut) == whole
    half = len(sample.reply) // 2
    assert read(sample, [sample.reply[:half], sample.reply[half:]], is_cut=is_cut) == whole


@pytest.mark.parametrize("sample", [sample for sample in SAMPLES if sample.calls])
def test_a_call_that_is_cut_anywhere_shows_no_markup(sample: Sample) -> None:
    for length in range(len(sample.reply)):
        answer, _, calls = summary(read(sample, [sample.reply[:length]], is_cut=True))
        # One character is not enough to know a marker by.
        assert any(sample.answer.startswith(text.strip()) for text in (answer, answer[:-1]))
        assert calls == list(sample.calls)[: len(calls)]


def test_without_tools_no_calls_are_read() -> None:
    for sample in SAMPLES:
        assert not summary(read(sample, [sample.reply], tools=()))[2]


def test_harmony_shows_reasoning_as_part_of_the_answer_in_its_markers() -> None:
    thought, final = "<|channel|>analysis<|message|>Rome.<|end|>", "<|channel|>final<|message|>It rains."
    sample = Sample("harmony", f"{thought}<|start|>assistant{final}")
    for changes in ({"include_thinking": True}, {"reasoning": None}):
        answer, reasoning, _ = summary(read(sample, sample.reply, **changes))
        assert (answer, reasoning) == (f"{thought}It rains.", "")


def test_the_readers_say_whether_text_is_held_back_and_whether_they_are_in_reasoning() -> None:
    reader = FORMATS["harmony"].reader(tools=TOOLS, reasoning=FORMATS["harmony"].reasoning)
    pieces = (
        "<|channel|>",
        "analysis<|message|>Ro<",
        "|end|><|start|>assistant<|channel|>final<|message|>It ",
        "rains.<",
    )
    states = []
    for piece in pieces:
        reader.feed(piece)
        states.append((reader.in_reasoning, reader.may_owe_text))
    assert states == [(False, True), (True, False), (False, False), (False, True)]
