"""Bodies of completions become tasks, and events their answers."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.protocol import Delta, Done
from neuron_lib.engine.sequence import Sampled, Sequence
from neuron_lib.errors import EngineDead, InvalidRequest
from neuron_lib.llamacpp.reply_text import ReplyText
from neuron_lib.text.formats import plain_reader
from neuron_lib.types import (
    Complete,
    Finished,
    FinishReason,
    Grammar,
    Likely,
    Principal,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from neuron_lib.wire.openai_chat import ChatCompletionBody
from neuron_lib.wire.openai_completions import CHAT_FIELDS, CompletionBody, CompletionRequest, decode
from neuron_lib.wire.refused_parameters import WITHOUT_EFFECT

JSON = {"content-type": "application/json"}
ME = Principal("account", "key")
USAGE = Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2, prefill_ms=7, decode_ms=9)


def request_of(**more: Any) -> CompletionRequest:
    body = {"model": "o/a", "prompt": "once"} | more
    return decode(json.dumps(body).encode(), headers=JSON, principal=ME)


def task_of(**more: Any) -> Complete:
    return request_of(**more).task


# ---------------------------------------------------------------------------------------------------------- the prompt


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("once", ("once",)),
        (["once", "twice"], ("once", "twice")),
        (["once"], ("once",)),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        ("", ("",)),
        ([[]], ((),)),
    ],
)
def test_a_prompt_is_a_text_or_tokens_or_a_list_of_either(prompt: object, prompts: tuple[Any, ...]) -> None:
    assert task_of(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": {"text": "once"}}, "prompt"),
        ({"prompt": ["once", 1]}, "prompt"),
        ({"prompt": [[1], "once"]}, "prompt"),
        ({"prompt": [1, [1]]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [[1], [2**31]]}, "prompt[1][0]"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": ["x"] * 65, "n": 2}, "prompt"),
        ({"n": 0}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": "yes"}, "echo"),
        ({"suffix": 1}, "suffix"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"model": ""}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
    ],
)
def test_what_is_wrong_or_would_be_ignored_is_refused_by_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(**body)
    assert caught.value.param == param


def test_no_field_of_a_chat_is_ignored() -> None:
    known = {*CompletionBody.__struct_fields__, *CHAT_FIELDS, *WITHOUT_EFFECT}
    assert {*ChatCompletionBody.__struct_fields__} - known == set()


def test_what_asks_a_chat_for_nothing_may_be_there() -> None:
    assert task_of(tools=[], tool_choice="none", reasoning_effort="none", parallel_tool_calls=False) == task_of()


def test_the_model_and_the_prompt_are_required() -> None:
    for body, param in (({"prompt": "once"}, "model"), ({"model": "o/a"}, "prompt")):
        with pytest.raises(InvalidRequest) as caught:
            decode(json.dumps(body).encode(), headers=JSON, principal=None)
        assert caught.value.param == param


# ------------------------------------------------------------------------------------------------------ other fields


def test_a_body_that_says_nothing_else_asks_for_sixteen_tokens() -> None:
    assert task_of() == Complete(model_id="o/a", prompt="once", max_tokens=16, principal=ME, whole=True)


@pytest.mark.parametrize(
    ("body", "max_tokens"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_tokens": None}, 16),
        ({"max_tokens": -1}, None),
        ({"n_predict": 7}, 7),
        ({"max_tokens": 5, "n_predict": -1}, 5),
        ({"max_completion_tokens": 9, "max_tokens": 5}, 9),
    ],
)
def test_the_length_of_a_reply_has_openai_s_default_and_llama_cpp_s_name(
    body: dict[str, Any], max_tokens: int | None
) -> None:
    assert task_of(**body).max_tokens == max_tokens


def test_every_field_that_has_an_effect_reaches_the_task() -> None:
    task = task_of(
        prompt=["a", "b"],
        suffix="end",
        echo=True,
        n=2,
        best_of=2,
        stop=["x", ""],
        temperature=0,
        seed=7,
        min_tokens=3,
        logit_bias={"5": -100},
        user="me",
    )
    assert (task.prompt, task.more_prompts, task.suffix, task.echo) == ("a", ("b",), "end", True)
    assert (task.choices, task.stop, task.top_logprobs) == (2, ("x",), None)
    sampling = task.sampling
    assert (sampling.temperature, sampling.seed, sampling.min_tokens, sampling.logit_bias) == (0, 7, 3, {5: -100.0})


@pytest.mark.parametrize(("logprobs", "top"), [(0, 0), (5, 5), (20, 20), (None, None)])
def test_logprobs_is_how_many_likely_tokens_are_wanted(logprobs: int | None, top: int | None) -> None:
    assert task_of(logprobs=logprobs).top_logprobs == top


@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({"guided_regex": "a+"}, Grammar("regex", "a+", "guided_regex")),
        ({"guided_choice": ["a", "b"]}, Grammar("regex", "(a|b)", "guided_choice")),
        ({"grammar": 'start: "a"'}, Grammar("lark", 'start: "a"')),
        ({"response_format": {"type": "json_object"}}, Grammar("json_schema", '{"type":"object"}')),
        ({"json_schema": {"type": "integer"}}, Grammar("json_schema", '{"type":"integer"}', "json_schema")),
    ],
)
def test_a_reply_is_bound_as_in_a_chat(body: dict[str, Any], grammar: Grammar) -> None:
    assert task_of(**body).grammar == grammar


@pytest.mark.parametrize("suffix", [None, ""])
def test_an_empty_suffix_is_none(suffix: str | None) -> None:
    assert task_of(suffix=suffix).suffix is None


# ------------------------------------------------------------------------------------------------------ whole replies


def whole(
    request: CompletionRequest, *events: TextDelta, reasons: tuple[FinishReason, ...] = (FinishReason.STOP,)
) -> Any:
    collector = request.collector(unique="1", created=7)
    collector.add(Started(prompt_tokens=5))
    for event in events:
        collector.add(event)
    collector.add(Finished(reasons=reasons, usage=USAGE))
    return json.loads(collector.body())


def test_a_whole_reply_has_openai_s_shape() -> None:
    told = whole(request_of(), TextDelta("a "), TextDelta("time"))
    usage, timings, fingerprint = told.pop("usage"), told.pop("timings"), told.pop("system_fingerprint")
    assert told == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 7,
        "model": "o/a",
        "choices": [{"text": "a time", "index": 0, "logprobs": None, "finish_reason": "stop"}],
    }
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 3, 8)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    assert timings["predicted_n"] == 3
    assert fingerprint.startswith("neuron-")


def test_choices_are_in_openai_s_order_and_each_has_its_reason() -> None:
    request = request_of(prompt=["a", "b"], n=2)
    texts = [TextDelta(str(choice), choice) for choice in (3, 1, 0, 2)]
    stop, length = FinishReason.STOP, FinishReason.LENGTH
    told = whole(request, *texts, reasons=(stop, length, stop, length))
    assert [(choice["index"], choice["text"]) for choice in told["choices"]] == [(i, str(i)) for i in range(4)]
    assert [choice["finish_reason"] for choice in told["choices"]] == ["stop", "length", "stop", "length"]


TOKENS = (
    TokenLogprob(b"h", -0.5, (Likely(b"h", -0.5), Likely(b"H", -1.0))),
    TokenLogprob(b"\xc3", -1.5, (Likely(b"x", -0.25), Likely(b"x", -9.0))),
    TokenLogprob(b"\xa9", float("-inf"), ()),
    TokenLogprob(b"!", -2.0, ()),
)
LOGPROBS = {
    "tokens": ["h", "bytes:\\xc3", "bytes:\\xa9", "!"],
    "token_logprobs": [-0.5, -1.5, -9999.0, -2.0],
    "top_logprobs": [
        {"h": -0.5, "H": -1.0},
        {"x": -0.25, "bytes:\\xc3": -1.5},
        {"bytes:\\xa9": -9999.0},
        {"!": -2.0},
    ],
    "text_offset": [0, 1, 1, 2],
}


def test_logprobs_have_openai_s_shape_with_the_place_of_each_token_in_the_text() -> None:
    events = TextDelta("hé", logprobs=TOKENS[:3]), TextDelta("!", logprobs=TOKENS[3:])
    (choice,) = whole(request_of(logprobs=2), *events)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("hé!", LOGPROBS)


@given(text=st.text(min_size=1, max_size=40), data=st.data())
def test_a_token_is_where_its_offset_says_however_a_text_is_cut_into_tokens_and_steps(
    text: str, data: st.DataObject
) -> None:
    raw = text.encode()
    cuts = data.draw(st.sets(st.integers(0, len(raw)), max_size=20))
    edges = [0, *sorted(cuts - {0, len(raw)}), len(raw)]
    sampled = [
        Sampled(token=1, piece=raw[start:end], logprob=TokenLogprob(raw[start:end], -1.0))
        for start, end in pairwise(edges)
    ]
    sampled.append(Sampled(token=2, piece=b"", is_eog=True))
    sequence, choice = Sequence(request=1, prompt=[0], max_tokens=1000), ReplyText(0, plain_reader())
    deltas: list[TextDelta] = []
    while choice.done is None:
        drafted = data.draw(st.integers(1, 3))
        step, sampled = sampled[:drafted], sampled[drafted:]
        said = sequence.accept(step, n_ctx=1 << 20)
        assert isinstance(said, Delta | Done)
        told = choice.finish(said) if isinstance(said, Done) else choice.feed(said)
        deltas += [event for event in told if isinstance(event, TextDelta)]
    places = [len(raw[:start].decode(errors="ignore")) for start in edges[:-1]]
    (told,) = whole(request_of(logprobs=0), *deltas)["choices"]
    chunks = [chunk["choices"][0] for chunk in stream(request_of(stream=True, logprobs=0), *deltas)]
    assert told["text"] == "".join(chunk["text"] for chunk in chunks) == text
    assert told["logprobs"]["text_offset"] == places
    assert [place for chunk in chunks if chunk["logprobs"] for place in chunk["logprobs"]["text_offset"]] == places


def test_a_reply_without_an_end_has_no_body() -> None:
    with pytest.raises(ValueError, match="not finished"):
        request_of().collector(unique="1", created=7).body()


# -------------------------------------------------------------------------------------------------------------- streams


def stream(
    request: CompletionRequest, *events: TextDelta, choices: int = 1, usages: list[Usage] | None = None
) -> list[Any]:
    encoder = request.encoder(unique="1", created=7)
    if usages:
        encoder.follow(lambda: usages.pop(0))
    assert encoder.opening() == b""
    data = encoder.event(Started(prompt_tokens=5)) + b"".join(map(encoder.event, events))
    data += encoder.ending(Finished(reasons=(FinishReason.STOP,) * choices, usage=USAGE))
    *chunks, done, rest = data.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def test_a_stream_has_a_chunk_for_each_text_and_the_usage_in_the_last() -> None:
    *texts, last = stream(request_of(stream=True), TextDelta("a "), TextDelta("time"))
    assert [chunk["choices"] for chunk in texts] == [
        [{"text": text, "index": 0, "logprobs": None, "finish_reason": None}] for text in ("a ", "time")
    ]
    assert {chunk["object"] for chunk in (*texts, last)} == {"text_completion"}
    assert all("usage" not in chunk for chunk in texts)
    assert last["choices"] == [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert (last["usage"]["total_tokens"], last["timings"]["prompt_n"]) == (8, 3)


def test_usage_that_is_asked_for_has_an_event_of_its_own() -> None:
    request = request_of(stream=True, stream_options={"include_usage": True})
    *_, ending, usage = stream(request, TextDelta("a"))
    assert (ending["choices"][0]["finish_reason"], "usage" in ending) == ("stop", False)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)


def test_usage_so_far_is_in_every_event_that_is_asked_for_it() -> None:
    request = request_of(stream=True, stream_options={"continuous_usage_stats": True})
    so_far = [Usage(prompt_tokens=5, completion_tokens=n) for n in (1, 2)]
    told = stream(request, TextDelta("a"), TextDelta("b"), usages=so_far)
    assert [chunk["usage"]["completion_tokens"] for chunk in told] == [1, 2, 3]


def test_the_choices_of_a_stream_are_told_apart_and_end_one_by_one() -> None:
    request = request_of(prompt=["a", "b"], stream=True)
    told = stream(request, TextDelta("x", 1), TextDelta("y", 0), choices=2)
    assert [(c["choices"][0]["index"], c["choices"][0]["finish_reason"]) for c in told] == [
        (1, None),
        (0, None),
        (0, "stop"),
        (1, "stop"),
    ]
    assert ["usage" in chunk for chunk in told] == [False, False, False, True]


def test_the_place_of_a_token_goes_on_from_chunk_to_chunk() -> None:
    events = TextDelta("hé", logprobs=TOKENS[:3]), TextDelta("!", logprobs=TOKENS[3:])
    told = [chunk["choices"][0]["logprobs"] for chunk in stream(request_of(stream=True, logprobs=2), *events)]
    assert [None if part is None else part["text_offset"] for part in told] == [[0, 1, 1], [2], None]
    assert [token for part in told if part for token in part["tokens"]] == LOGPROBS["tokens"]


def test_a_lost_stream_ends_its_choices_and_says_why() -> None:
    encoder = request_of(stream=True, n=2).encoder(unique="1", created=7)
    data = encoder.event(TextDelta("a")) + encoder.error(EngineDead("o/a", "SIGSEGV"), USAGE)
    *chunks, error, rest = data.decode().split("\n\n")
    assert rest == ""
    ends = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks[1:]]
    assert [(end["choices"][0]["index"], end["choices"][0]["finish_reason"]) for end in ends] == [
        (0, "length"),
        (1, "length"),
    ]
    assert ends[-1]["usage"]["completion_tokens"] == 3
    assert "SIGSEGV" in json.loads(error.removeprefix("data: "))["error"]["message"]
