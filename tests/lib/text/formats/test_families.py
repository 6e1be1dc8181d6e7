import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.formats import FORMATS, OutputEvent
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall
from tests.lib.text.formats.family_samples import SAMPLES, TOOLS, Sample

_THINK = Markers("<think>", "</think>")
_IDS = [f"{sample.format}-{number}" for number, sample in enumerate(SAMPLES)]


def read(sample: Sample, pieces: Iterable[str], *, is_cut: bool = False, **changes: Any) -> list[OutputEvent]:
    """The events of a reply that comes in `pieces`, with neighbours of one kind joined."""
    format_ = FORMATS[sample.format]
    given_ = {"tools": TOOLS, "reasoning": format_.reasoning or _THINK, "starts_in_reasoning": sample.is_open}
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
            yield kind("".join(event.text for event in group))  # type: ignore[union-attr, call-arg]


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
