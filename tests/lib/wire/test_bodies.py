from contextlib import suppress
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest, cause_chain
from neuron_lib.wire.bodies import MalformedJson, UnsupportedMediaType, decode_body


class Item(msgspec.Struct):
    name: str


class Shape(msgspec.Struct):
    items: list[Item]
    number: float | None = None
    free: dict[str, Any] | None = None


DECODER = msgspec.json.Decoder(Shape)
GOOD = b'{"items":[]}'


def decode(body: bytes, content_type: str | None = "application/json") -> Shape:
    return decode_body(DECODER, body, content_type=content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; charset=us-ascii",
        "application/json; profile=charset",
        " application/json ",
        "application/a+json",
        "application/vnd.api+json",
    ],
)
def test_json_types_are_accepted(content_type: str) -> None:
    assert decode(GOOD, content_type) == Shape([])


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/jsonx",
        "text/json",
        "multipart/form-data; boundary=application/json",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/json;charset=ISO-8859-1",
        'application/json; profile=x; CHARSET="utf-16le"',
        "application/json; charset=utf-8; charset=utf-7",
        "+json",
    ],
)
def test_other_types_are_refused_before_the_body_is_read(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType) as caught:
        decode(b"not json", content_type)
    assert caught.value.code == "unsupported_media_type"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"{'items':[]}",
        b'{"items":[]} x',
        b'{"items":[],}',
        b"\xef\xbb\xbf" + GOOD,
        GOOD.decode().encode("utf-16"),
        b'{"items":[{"name":"\xff"}]}',
        b'{"unknown":"\xff","items":[]}',
        b'{"items":[{"name":"\xed\xa0\x80"}]}',
        b'{"items":[{"name":"\\ud800"}]}',
        b'{"items":[{"name":"\\udc00x"}]}',
        b'{"items":[],"number":NaN}',
        b'{"items":[],"number":-Infinity}',
        b'{"items":[],"free":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
        b'{"items":[],"unknown":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"items":[{"name":"a\nb"}]}',
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        decode(body)
    assert caught.value.code == "malformed_json"
    assert cause_chain(caught.value) == caught.value.message  # said once, not again in the decoder's words


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"null", None, "Expected `object`, got `null`"),
        (b"[]", None, "Expected `object`, got `array`"),
        (b"{}", "items", "items: this field is required"),
        (b'{"items":3}', "items", "items: Expected `array`, got `int`"),
        (b'{"items":[{"name":"a"},{"name":1}]}', "items[1].name", "items[1].name: Expected `str`, got `int`"),
        (b'{"items":[{}]}', "items[0].name", "items[0].name: this field is required"),
        (b'{"items":[],"number":1e400}', "number", "number: Number out of range"),
        (b'{"items":[],"number":true}', "number", "number: Expected `float | null`, got `bool`"),
        (b'{"items":[],"free":{"a":' + b"9" * 5_000 + b"}}", "free[...]", "free[...]: Integer value out of range"),
    ],
)
def test_json_of_another_shape_is_invalid_and_names_the_place(body: bytes, param: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body)
    assert type(caught.value) is InvalidRequest
    assert caught.value.code == "invalid_request_body"
    assert (caught.value.param, caught.value.message) == (param, message)


@pytest.mark.parametrize(
    ("shape", "value", "shown"), [(Literal["a", "b"], b'"secret"', "'secret'"), (Literal[True], b"false", "False")]
)
def test_a_value_that_is_none_of_those_allowed_is_told_to_the_client_and_not_to_the_log(
    shape: Any, value: bytes, shown: str
) -> None:
    decoder = msgspec.json.Decoder(msgspec.defstruct("Choice", [("field", shape)]))
    with pytest.raises(InvalidRequest) as caught:
        decode_body(decoder, b'{"field":' + value + b"}", content_type="application/json")
    assert caught.value.message == f"field: this value is not supported; it is {shown}"
    assert caught.value.log_message == "field: this value is not supported"


def test_unknown_fields_are_ignored_and_of_equal_ones_the_last_counts() -> None:
    assert decode(b'{"items":[],"new":{"x":[1]},"number":1,"number":2}') == Shape([], number=2.0)


@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,itemsnull0-e.\\u', max_size=60).map(str.encode))
def test_any_bytes_give_a_value_or_one_of_the_three_errors(body: bytes) -> None:
    with suppress(InvalidRequest):
        decode(body)
