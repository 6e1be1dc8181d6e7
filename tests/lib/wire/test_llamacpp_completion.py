"""llama.cpp's own completions: the fields of a body, and replies whole and streamed."""

import json
from typing import Any

import pytest

from neuron_lib.errors import EngineDead, InvalidRequest
from neuron_lib.types import Complete, Finished, FinishReason, Grammar, Started, TextDelta, Usage
from neuron_lib.wire.llamacpp_completion import LlamaCompletionRequest, decode

JSON = {"content-type": "application/json"}
USAGE = Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2, prefill_ms=7, decode_ms=9)
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


def request_of(**body: Any) -> LlamaCompletionRequest:
    return decode(json.dumps({"prompt": "once"} | body).encode(), headers=JSON, principal=None)


def test_a_body_needs_nothing_but_a_prompt_and_has_the_length_of_chats() -> None:
    request = request_of()
    assert request.task == Complete(model_id="", prompt="once", whole=True)
    assert not request.stream


def test_the_fields_of_llama_cpp_reach_the_task() -> None:
    task = request_of(
        model="o/a",
        prompt=[[1, 2], [3]],
        n_predict=7,
        stop=["x"],
        repeat_penalty=1.5,
        min_p=0.1,
        seed=-1,
        cache_prompt=True,
        id_slot=3,
        samplers=[],
        json_schema={"type": "integer"},
        stream=True,
    ).task
    assert (task.model_id, task.prompts, task.max_tokens) == ("o/a", ((1, 2), (3,)), 7)
    assert (task.stop, task.sampling.repetition_penalty, task.sampling.seed) == (("x",), 1.5, None)
    assert task.grammar == Grammar("json_schema", '{"type":"integer"}', "json_schema")
    assert not task.whole


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"n_predict": 0}, "n_predict"),
        ({"n_probs": 3}, "n_probs"),
        ({"echo": True}, "echo"),
        ({"logprobs": 0}, "logprobs"),
        ({"stream_options": {}}, "stream_options"),
        ({"messages": [{}]}, "messages"),
        ({"samplers": ["top_k"]}, "samplers"),
    ],
)
def test_what_would_be_ignored_is_refused_by_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(**body)
    assert caught.value.param == param


def whole(request: LlamaCompletionRequest, *deltas: TextDelta, finished: Finished) -> Any:
    collector = request.collector(unique="1", created=7)
    collector.add(Started(prompt_tokens=5))
    for delta in deltas:
        collector.add(delta)
    collector.add(finished)
    return json.loads(collector.body())


@pytest.mark.parametrize(
    ("finished", "stop_type", "word"),
    [
        (Finished(reasons=(STOP,), usage=USAGE), "eos", ""),
        (Finished(reasons=(LENGTH,), usage=USAGE), "limit", ""),
        (Finished(reasons=(STOP,), usage=USAGE, stop_strings=("END",)), "word", "END"),
    ],
)
def test_a_whole_reply_says_its_text_and_how_it_ended(finished: Finished, stop_type: str, word: str) -> None:
    told = whole(request_of(model="o/a"), TextDelta("a "), TextDelta("time"), finished=finished)
    timings = told.pop("timings")
    assert told == {
        "index": 0,
        "content": "a time",
        "stop": True,
        "stop_type": stop_type,
        "stopping_word": word,
        "model": "o/a",
        "tokens_predicted": 3,
        "tokens_evaluated": 5,
        "tokens_cached": 2,
        "truncated": False,
    }
    assert (timings["prompt_n"], timings["predicted_n"]) == (3, 3)


def test_several_replies_are_an_array_in_their_order() -> None:
    finished = Finished(reasons=(STOP, LENGTH), usage=USAGE, stop_strings=("x", None))
    told = whole(request_of(prompt=["a", "b"]), TextDelta("B", 1), TextDelta("A", 0), finished=finished)
    assert [(each["index"], each["content"], each["stop_type"]) for each in told] == [
        (0, "A", "word"),
        (1, "B", "limit"),
    ]


def events(data: bytes) -> list[Any]:
    *chunks, rest = data.decode().split("\n\n")
    assert rest == ""
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def test_a_stream_is_the_texts_and_then_the_end_of_each_reply() -> None:
    encoder = request_of(prompt=["a", "b"], stream=True).encoder(unique="1", created=7)
    data = encoder.opening() + encoder.event(Started(prompt_tokens=5)) + encoder.event(TextDelta(""))
    data += encoder.event(TextDelta("x", 1)) + encoder.ending(Finished(reasons=(STOP, LENGTH), usage=USAGE))
    text, *ends = events(data)
    assert text == {"index": 1, "content": "x", "stop": False}
    assert [(end["index"], end["content"], end["stop"], end["stop_type"]) for end in ends] == [
        (0, "", True, "eos"),
        (1, "", True, "limit"),
    ]


def test_a_lost_stream_ends_its_replies_and_says_why() -> None:
    encoder = request_of(prompt=["a", "b"], stream=True).encoder(unique="1", created=7)
    *ends, error = events(encoder.error(EngineDead("o/a", "SIGSEGV"), USAGE))
    assert [(end["index"], end["stop_type"]) for end in ends] == [(0, "limit"), (1, "limit")]
    assert "SIGSEGV" in error["error"]["message"]


def test_a_reply_without_an_end_has_no_body() -> None:
    with pytest.raises(ValueError, match="not finished"):
        request_of().collector(unique="1", created=7).body()
