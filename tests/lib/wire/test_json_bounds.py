import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest
from neuron_lib.wire.json_bounds import MAX_NESTING, MAX_VALUES, MalformedJson, check_nesting_and_numbers, check_values


def values_in(value: Any) -> int:
    """How many values a decoded JSON text holds; an empty array or object counts as if it held one."""
    match value:
        case dict():
            return max(1, sum(1 + values_in(member) for member in value.values()))
        case list():
            return max(1, sum(1 + values_in(member) for member in value))
        case _:
            return 0


json_values = st.recursive(
    st.none() | st.integers() | st.text(alphabet='ab"\\[]{},:9é\u2028', max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='"\\[{,', max_size=3), inner),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_values_are_counted_exactly_whatever_strings_hold(value: Any, ascii_only: bool) -> None:  # noqa: FBT001
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    count = values_in(value)
    check_values(text, most=count)
    if count:
        with pytest.raises(MalformedJson, match=f"more than {count - 1} values"):
            check_values(text, most=count - 1)


@pytest.mark.parametrize("unit", ["[]", "{}", "0", '""', '"a,b"', '{"a":1}', "[[]]", '"\\\\"', '"\\""'])
def test_a_body_may_hold_as_many_values_as_the_bound_and_not_twice_as_many(unit: str) -> None:
    each = values_in(json.loads(unit)) + 1
    fits = MAX_VALUES // each
    check_values(f"[{','.join([unit] * fits)}]".encode())
    with pytest.raises(MalformedJson, match="the body holds more than 100000 values"):
        check_values(f"[{','.join([unit] * (fits * 2))}]".encode())


@pytest.mark.parametrize("text", ["[" * 200_000, ",{[" * 500_000, "\\[" * 200_000, '"a\\", [{,' * 100_000])
def test_one_long_string_is_one_value_whatever_is_in_it(text: str) -> None:
    check_values(json.dumps({"content": text}).encode(), most=1)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json_pass_or_are_refused(text: bytes) -> None:
    for most in (0, 3):
        with suppress(MalformedJson):
            check_values(text, most=most)


def test_more_strings_than_any_json_of_so_many_values_has_are_too_many() -> None:
    with pytest.raises(MalformedJson):
        check_values(b'","]' * 500_000)


def test_a_refusal_names_the_field_and_the_bound() -> None:
    with pytest.raises(MalformedJson, match="tools: more than 2 values") as caught:
        check_values(b"[1,2,3]", most=2, place="tools")
    assert caught.value.param == "tools"


def nested(levels: int) -> bytes:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return msgspec.json.encode(value)


def test_free_form_values_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    check_nesting_and_numbers(nested(MAX_NESTING), param="tools")
    with pytest.raises(MalformedJson, match="tools: nested deeper than 100 levels") as caught:
        check_nesting_and_numbers(nested(MAX_NESTING + 1), param="tools")
    assert caught.value.param == "tools"


def test_many_brackets_side_by_side_or_in_a_string_are_not_deep() -> None:
    check_nesting_and_numbers(b"[" + b"[],{}," * 1000 + b"1]", param="x")
    check_nesting_and_numbers(msgspec.json.encode({"text": '["' * 1000}), param="x")


@pytest.mark.parametrize(
    "number",
    [
        str(-(2**63)),
        str(2**64 - 1),
        "1.5e300",
        "0.12345678901234567890123",
        "12345678901234567890123.5",
        "1" * 25 + "e-9",
    ],
)
def test_free_form_numbers_that_fit_pass(number: str) -> None:
    check_nesting_and_numbers(b'[{"a":%s}]' % number.encode(), param="tools")


@pytest.mark.parametrize("number", [str(-(2**63) - 1), str(2**64), "9" * 5000, "-" + "9" * 30])
def test_a_free_form_integer_beyond_64_bits_is_invalid(number: str) -> None:
    for text in (f'[{{"a": [{number}]}}]', number, f"[1,{number},2]", f'{{"a":{number}}}'):
        with pytest.raises(InvalidRequest, match="64 bits") as caught:
            check_nesting_and_numbers(text.encode(), param="tools")
        assert caught.value.param == "tools"


def test_digits_in_a_string_are_no_number() -> None:
    check_nesting_and_numbers(msgspec.json.encode({"a": "9" * 100, "b": ["x" * 3]}), param="tools")
