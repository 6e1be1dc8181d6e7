import base64
import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import Embed, Embedding, Finished, FinishReason, Principal, Started, Usage
from neuron_lib.wire import openai_embeddings
from neuron_lib.wire.openai_embeddings import EmbeddingsRequest

DONE = Finished(reasons=(FinishReason.STOP,) * 2, usage=Usage(prompt_tokens=9, completion_tokens=0))


def decode(**fields: Any) -> EmbeddingsRequest:
    body = json.dumps({"model": "a/b", "input": "one"} | fields).encode()
    return openai_embeddings.decode(body, headers={"content-type": "application/json"}, principal=None)


def reply_to(call: EmbeddingsRequest, *events: Embedding) -> Any:
    collector = call.collector(unique="1", created=7)
    collector.add(Started(prompt_tokens=9))
    for event in events:
        collector.add(event)
    collector.add(DONE)
    return json.loads(collector.body())


# -------------------------------------------------------------------------------------------------------- the request


@pytest.mark.parametrize(
    ("given_input", "inputs"),
    [
        ("one", ("one",)),
        (" ", (" ",)),
        (["one", "two"], ("one", "two")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a"] * 2048, ("a",) * 2048),
        ([7] * 5000, ((7,) * 5000,)),
    ],
    ids=["a text", "a space", "texts", "tokens", "lists of tokens", "as many as possible", "a long list of tokens"],
)
def test_an_input_is_a_text_or_its_tokens_or_a_list_of_either(given_input: Any, inputs: Any) -> None:
    assert decode(input=given_input).task == Embed(model_id="a/b", inputs=inputs)


def test_every_other_field_arrives_and_null_means_the_default() -> None:
    call = openai_embeddings.decode(
        b'{"model":"a/b","input":"x","dimensions":64,"encoding_format":"base64","user":"u","unknown":1}',
        headers={"content-type": "application/json"},
        principal=Principal("acc", "key"),
    )
    assert call.task == Embed(model_id="a/b", inputs=("x",), dimensions=64, principal=Principal("acc", "key"))
    assert (call.is_base64, call.stream) == (True, False)
    for nothing in (decode(), decode(dimensions=None, encoding_format=None, user=None)):
        assert (nothing.task.dimensions, nothing.is_base64) == (None, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": [1, [1]]}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [True]}, "input[0]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [2**31]}, "input[0]"),
        ({"input": [[1.5]]}, "input[0][0]"),
        ({"input": [{"text": "x"}]}, "input[0]"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"encoding_format": ""}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "8"}, "dimensions"),
        ({"dimensions": 2**64}, "dimensions"),
        ({"user": 5}, "user"),
        ({"model": ""}, "model"),
        ({"stream": True}, "stream"),
        ({"input_type": "query"}, "input_type"),
        ({"truncate_prompt_tokens": 10}, "truncate_prompt_tokens"),
        ({"truncate": True}, "truncate"),
        ({"embd_normalize": -1}, "embd_normalize"),
        ({"normalize": False}, "normalize"),
        ({"add_special_tokens": False}, "add_special_tokens"),
        ({"embedding_types": ["int8"]}, "embedding_types"),
        ({"output_dimension": 8}, "output_dimension"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        decode(**fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"truncate": False},
        {"embd_normalize": 2},
        {"normalize": True},
        {"stream": False},
        {"embedding_types": ["float"]},
    ],
)
def test_what_happens_anyway_may_be_asked_for(fields: dict[str, Any]) -> None:
    assert decode(**fields) == decode()


@pytest.mark.parametrize("field", ["model", "input"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    body = json.dumps({name: "x" for name in ("model", "input") if name != field}).encode()
    with pytest.raises(InvalidRequest, match="this field is required") as raised:
        openai_embeddings.decode(body, headers={"content-type": "application/json"}, principal=None)
    assert raised.value.param == field


def test_a_text_of_the_client_is_never_in_the_log() -> None:
    for fields in ({"encoding_format": "the-secret"}, {"input": ["the-secret", ""]}, {"task": "the-secret"}):
        with pytest.raises(InvalidRequest) as raised:
            decode(**fields)
        assert "the-secret" not in raised.value.log_message


@given(
    st.dictionaries(
        st.sampled_from(["model", "input", "dimensions", "encoding_format", "user", "truncate"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
            max_leaves=6,
        ),
    )
)
def test_every_body_is_a_request_or_a_refusal(fields: dict[str, Any]) -> None:
    with suppress(InvalidRequest):
        assert decode(**fields).task.inputs


# ---------------------------------------------------------------------------------------------------------- the reply


def test_vectors_are_numbers_in_the_order_of_the_inputs() -> None:
    reply = reply_to(decode(input=["a", "b"]), Embedding(1, (0.0, -1.0)), Embedding(0, (0.6, 0.8)))
    assert reply == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.6, 0.8]},
            {"object": "embedding", "index": 1, "embedding": [0.0, -1.0]},
        ],
        "model": "a/b",
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }


def test_base64_is_that_of_little_endian_float32() -> None:
    reply = reply_to(decode(encoding_format="base64"), Embedding(0, (0.1, -2.5, 3e-8)))
    text = reply["data"][0]["embedding"]
    assert struct.unpack("<3f", base64.b64decode(text, validate=True)) == pytest.approx((0.1, -2.5, 3e-8))


def test_there_is_no_body_before_the_end_and_no_stream() -> None:
    collector = decode().collector(unique="1", created=7)
    collector.add(Embedding(0, (1.0,)))
    with pytest.raises(ValueError, match="not ended"):
        collector.body()
    with pytest.raises(ValueError, match="not streamed"):
        decode().encoder(unique="1", created=7)
