"""Values in the notation of JSON and of Python, and calls made of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.formats.arguments import as_call, names_of, parse_arguments
from neuron_lib.text.formats.json_text import NOT_UNDERSTOOD
from neuron_lib.text.formats.literals import LiteralReader, ValueScanner
from neuron_lib.text.formats.python_calls import parse_python_calls

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)), max_leaves=12)


def read(text: str) -> Any:
    reader = LiteralReader(text)
    value = reader.value()
    assert reader.is_at_end
    return value


@given(values)
def test_a_value_is_read_in_both_notations(value: object) -> None:
    assert read(json.dumps(value)) == read(json.dumps(value, ensure_ascii=False)) == read(f" {value!r} ") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': true, \"b\": None, 'c': (1, 2,), }", {"a": True, "b": None, "c": [1, 2]}),
        ("'a' ", "a"),
        ('"""a\nb"""', "a\nb"),
        ("'a''b'", "ab"),
        (r"'\x41\u0042\U00000043\d\/\"'", 'ABC\\d/"'),
        (r'"\ud83d\ude00"', "😀"),
        ("'a\\\nb'", "ab"),
        ("+1_000", 1000),
        (".5", 0.5),
        ("-0", 0),
    ],
)
def test_what_only_models_write_is_read(text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[1", "[1 2]", "{1: 2}", "{'a' 1}", "{'a': 1 'b': 2}", "'a", "'\\", "'\\u12", "'\\xzz'", "nan", "f"),
        *("007", "1e999", "1.2.3", "--1", "[" * 300 + "]" * 300, "'\\ud800'", "{,}", "[,]"),
    ],
)
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(NOT_UNDERSTOOD):
        read(text)


@given(st.dictionaries(texts, values), texts, st.data())
def test_the_end_of_a_value_is_found_however_the_text_is_cut(value: object, rest: str, data: st.DataObject) -> None:
    notation = data.draw(st.sampled_from([json.dumps, repr]))
    text = notation(value)
    whole = text + rest
    borders = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    scanner, read_before = ValueScanner(), 0
    for start, end in zip([0, *borders], [*borders, len(whole)], strict=True):
        found = scanner.feed(whole[start:end])
        if found is not None:
            assert whole[: start + found] == text
            return
        read_before = end
    pytest.fail(f"no end in {whole[:read_before]!r}")


def test_a_scanner_knows_whether_it_is_in_a_string() -> None:
    scanner = ValueScanner()
    places = []
    for piece in ("{", "'a", "\\", "'", "b'", ": "):
        scanner.feed(piece)
        places.append(scanner.is_in_string)
    assert places == [False, True, True, True, False, False]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(a=1), g()]", [("f", '{"a":1}'), ("g", "{}")]),
        ("f(a='x')\ng(b=[1,],)", [("f", '{"a":"x"}'), ("g", '{"b":[1]}')]),
        ("f(); g()", [("f", "{}"), ("g", "{}")]),
        ("a.b-c(d=1)", [("a.b-c", '{"d":1}')]),
        ("[f(1)]", []),
        ("[f(a=1, a=2)]", []),
        ("[f(a=1)] and", []),
        ("[f(a=g())]", []),
        ("f(a='\\ud800')", []),
        ("f", []),
        ("", []),
    ],
)
def test_calls_as_in_python_need_names_for_all_arguments(text: str, calls: list[tuple[str, str]]) -> None:
    assert list(parse_python_calls(text, ())) == calls


def test_arguments_make_a_call_if_they_are_one_object_of_json() -> None:
    assert parse_arguments("f", "{'a': 1}") == ("f", '{"a":1}')
    assert [parse_arguments("f", text) for text in ("[1]", "{} x", "{", "")] == [None] * 4
    assert as_call("\ud800", {}) is None
    assert as_call("f", {"a": "\ud800"}) is None
    assert names_of([{}, {"function": 1}, {"function": {"name": 2}}, {"function": {"name": "f"}}]) == {"f"}
