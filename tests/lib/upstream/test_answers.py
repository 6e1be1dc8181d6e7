"""What answers mean that are no stream, and those that are no success."""

import json
from typing import Any

import pytest

from neuron_lib.errors import EngineFailed, InvalidRequest, NeuronError
from neuron_lib.types import Embed, Embedding, Started
from neuron_lib.upstream.answers import events_of
from neuron_lib.upstream.refusals import refusal_of


def vectors(**usage: Any) -> bytes:
    return json.dumps({"data": [{"index": 0, "embedding": [0.6, 0.8, 0.0]}], "usage": usage}).encode()


def refusal(status: int, body: bytes) -> NeuronError:
    return refusal_of(status, {}, body, model_id="m", where="http://there")


def test_vectors_of_another_length_than_was_asked_for_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        events_of(Embed(model_id="m", inputs=("a",), dimensions=2), vectors())
    assert caught.value.param == "dimensions"
    assert any(isinstance(each, Embedding) for each in events_of(Embed(model_id="m", inputs=("a",)), vectors()))


@pytest.mark.parametrize("told", [-1, 10**30])
def test_a_count_that_can_be_none_counts_nothing(told: int) -> None:
    assert events_of(Embed(model_id="m", inputs=("a",)), vectors(prompt_tokens=told))[0] == Started(prompt_tokens=0)


@pytest.mark.parametrize("status", [408, 425, 499, 504])
def test_a_gateway_whose_server_was_too_slow_is_not_the_fault_of_the_request(status: int) -> None:
    assert isinstance(refusal(status, b'{"error":{"message":"litellm.Timeout"}}'), EngineFailed)


@pytest.mark.parametrize("detail", [b'"\xff"', b'["\xff"]', b"[1]", b"[]", b'[{"loc": 1, "msg": 2}]'])
def test_a_detail_that_is_none_is_a_refusal_without_words(detail: bytes) -> None:
    assert isinstance(refusal(422, b'{"detail":%s}' % detail), InvalidRequest)


def test_the_field_that_a_server_refuses_is_named() -> None:
    error = refusal(422, b'{"detail":[{"loc":["body","top_k"],"msg":"not a number"}]}')
    assert isinstance(error, InvalidRequest)
    assert (error.param, error.message) == ("top_k", "top_k: not a number")
