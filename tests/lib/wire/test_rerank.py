import json
from typing import Any

import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import Finished, FinishReason, Principal, Relevance, Rerank, Started, Usage
from neuron_lib.wire import rerank
from neuron_lib.wire.rerank import RerankRequest

DOCUMENTS = ["one", "two", "three\u2028"]
DONE = Finished(reasons=(FinishReason.STOP,) * 3, usage=Usage(prompt_tokens=30, completion_tokens=0))
SCORES = (0.25, 0.75, 0.25)


def decode_body(body: dict[str, Any]) -> RerankRequest:
    headers = {"content-type": "application/json"}
    return rerank.decode(json.dumps(body).encode(), headers=headers, principal=Principal("acc", "key"))


def decode(**fields: Any) -> RerankRequest:
    return decode_body({"model": "a/b", "query": "which?", "documents": DOCUMENTS} | fields)


def bare(**fields: Any) -> RerankRequest:
    return decode_body({"model": "a/b", "query": "which?", "texts": DOCUMENTS} | fields)


def reply_to(call: RerankRequest) -> Any:
    collector = call.collector(unique="1", created=7)
    collector.add(Started(prompt_tokens=30))
    for index in (2, 0, 1):
        collector.add(Relevance(index, SCORES[index]))
    collector.add(DONE)
    return json.loads(collector.body())


TASK = Rerank(model_id="a/b", query="which?", documents=tuple(DOCUMENTS), principal=Principal("acc", "key"))


def test_documents_are_texts_or_objects_with_a_text() -> None:
    assert decode().task == TASK
    assert decode(documents=[{"text": "one", "id": 7}, "two", {"text": DOCUMENTS[2]}]).task == TASK
    assert bare().task == TASK


def test_the_best_document_comes_first_and_of_equal_ones_the_first() -> None:
    assert reply_to(decode()) == {
        "object": "list",
        "id": "rerank-1",
        "model": "a/b",
        "results": [
            {"index": 1, "relevance_score": 0.75},
            {"index": 0, "relevance_score": 0.25},
            {"index": 2, "relevance_score": 0.25},
        ],
        "usage": {"prompt_tokens": 30, "total_tokens": 30},
    }


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (3, 3), (100, 3), (None, 3)])
def test_no_more_than_the_best_documents_are_told_if_so_many_are_wanted(top_n: int | None, count: int) -> None:
    assert [result["index"] for result in reply_to(decode(top_n=top_n))["results"]] == [1, 0, 2][:count]


def test_documents_are_repeated_if_they_are_wanted() -> None:
    results = reply_to(decode(return_documents=True, top_n=2))["results"]
    assert [result["document"] for result in results] == [{"text": "two"}, {"text": "one"}]


def test_texts_are_answered_in_the_shape_of_text_embeddings_inference() -> None:
    assert reply_to(bare()) == [{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}, {"index": 2, "score": 0.25}]
    assert reply_to(bare(return_text=True))[1:] == [
        {"index": 0, "score": 0.25, "text": "one"},
        {"index": 2, "score": 0.25, "text": DOCUMENTS[2]},
    ]


def test_only_texts_may_leave_the_model_to_the_host() -> None:
    assert bare(model=None).task.model_id == ""
    assert bare().task.model_id == "a/b"
    with pytest.raises(InvalidRequest, match="model: this field is required"):
        decode(model=None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": 123}, "documents"),
        ({"documents": "one"}, "documents"),
        ({"documents": [1, 2]}, "documents[0]"),
        ({"documents": [{"image": "x"}]}, "documents[0].text"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"texts": ["a"]}, "texts"),
        ({"documents": None, "texts": []}, "texts"),
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"query": ["a"]}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "2"}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"raw_scores": True}, "raw_scores"),
        ({"truncate": True}, "truncate"),
        ({"max_chunks_per_doc": 4}, "max_chunks_per_doc"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(**fields)
    assert raised.value.param == param


def test_there_is_no_body_before_the_end_and_no_stream() -> None:
    with pytest.raises(ValueError, match="not ended"):
        decode().collector(unique="1", created=7).body()
    with pytest.raises(ValueError, match="not streamed"):
        decode().encoder(unique="1", created=7)
