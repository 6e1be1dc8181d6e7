"""Vectors and rankings over HTTP, by models that follow scripts."""

import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

from neuron_lib.testing import ScriptedModel
from neuron_lib.types import Embed, Principal, Rerank
from tests.fakes.scripted_host import chat_body, scripted_host

pytestmark = pytest.mark.anyio

A = "org/a"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"
CHAT = "/v1/chat/completions"


def vectors() -> ScriptedModel:
    return ScriptedModel(capabilities=("embeddings",), vector=(0.6, 0.0, 0.8))


def ranks() -> ScriptedModel:
    return ScriptedModel(capabilities=("rerank",), scores=(0.25, 0.75))


def small() -> ScriptedModel:
    return ScriptedModel(capabilities=("embeddings",), prompt_tokens=9, n_ctx=8)


async def test_a_model_for_embeddings_answers_with_a_vector_for_each_text() -> None:
    headers = {"content-type": "application/json", "x-helexa-account-id": "acc", "x-helexa-key-id": "key"}
    async with scripted_host({A: vectors()}, resident=[A]) as host:
        reply = await host.client.post(EMBEDDINGS, {"model": A, "input": ["a", "b"]}, headers=headers)
        principal = Principal("acc", "key")
        expected = Embed(model_id=A, inputs=("a", "b"), principal=principal, request_id=reply.request_id)
        assert host.harness.requests == [expected]
    assert reply.status == 200
    assert [(item["index"], item["embedding"]) for item in reply.json()["data"]] == [
        (0, [0.6, 0, 0.8]),
        (1, [0.6, 0, 0.8]),
    ]
    assert reply.json()["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


async def test_fewer_dimensions_are_the_first_ones_at_length_one() -> None:
    async with scripted_host({A: vectors()}, resident=[A]) as host:
        reply = await host.client.post(EMBEDDINGS, {"model": A, "input": "a", "dimensions": 2})
    (item,) = reply.json()["data"]
    assert item["embedding"] == [1.0, 0.0]
    assert math.hypot(*item["embedding"]) == 1


async def test_a_reranker_tells_the_best_documents_first() -> None:
    async with scripted_host({A: ranks()}, resident=[A]) as host:
        body = {"model": A, "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True}
        reply = await host.client.post(RERANK, body)
        expected = Rerank(model_id=A, query="q", documents=("a", "b"), request_id=reply.request_id)
        assert host.harness.requests == [expected]
    assert reply.json()["results"] == [{"index": 1, "relevance_score": 0.75, "document": {"text": "b"}}]


EMBED_BODY: dict[str, Any] = {"model": A, "input": "a"}
RERANK_BODY: dict[str, Any] = {"model": A, "query": "q", "documents": ["a"]}
REFUSED: dict[str, tuple[Callable[[], ScriptedModel], str, dict[str, Any], int, str, str | None]] = {
    "vectors of a chat model": (ScriptedModel, EMBEDDINGS, EMBED_BODY, 400, "embeddings_unsupported", None),
    "ranks of a chat model": (ScriptedModel, RERANK, RERANK_BODY, 400, "rerank_unsupported", None),
    "vectors of a reranker": (ranks, EMBEDDINGS, EMBED_BODY, 400, "embeddings_unsupported", None),
    "ranks of an embedder": (vectors, RERANK, RERANK_BODY, 400, "rerank_unsupported", None),
    "a chat with an embedder": (vectors, CHAT, chat_body(A), 422, "wrong_modality", None),
    "a chat with a reranker": (ranks, CHAT, chat_body(A), 422, "wrong_modality", None),
    "too many dimensions": (
        vectors,
        EMBEDDINGS,
        EMBED_BODY | {"dimensions": 4},
        400,
        "invalid_request_body",
        "dimensions",
    ),
    "no input": (vectors, EMBEDDINGS, {"model": A, "input": ""}, 400, "invalid_request_body", "input"),
    "no documents": (ranks, RERANK, RERANK_BODY | {"documents": []}, 400, "invalid_request_body", "documents"),
    "too long": (
        small,
        EMBEDDINGS,
        EMBED_BODY,
        400,
        "context_length_exceeded",
        None,
    ),
    "unknown model": (vectors, EMBEDDINGS, EMBED_BODY | {"model": "org/b"}, 404, "model_not_found", None),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_a_model_cannot_do_is_refused_in_openai_s_shape(case: str, caplog: pytest.LogCaptureFixture) -> None:
    script, path, body, status, code, param = REFUSED[case]
    async with scripted_host({A: script()}, resident=[A]) as host:
        reply = await host.client.post(path, body)
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (warning.__dict__["path"], warning.__dict__["status"]) == (path, status)
