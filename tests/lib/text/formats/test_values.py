from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.formats.values import Schema, as_json, parameters_of, typed_value


def value(text: str, schema: object, **root: Any) -> Any:
    return typed_value(text, Schema(schema, root))


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "true", "true"),
        ({"type": "string"}, '{"a": 1}', '{"a": 1}'),
        ({"type": "integer"}, " -7 ", -7),
        ({"type": "integer"}, "7.0", 7),
        ({"type": "integer"}, "7.5", "7.5"),
        ({"type": "integer"}, "true", "true"),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "object"}, "{'a': True, \"b\": None}", {"a": True, "b": None}),
        ({"type": "array"}, "['it\\'s', 2]", ["it's", 2]),
        ({"type": "array"}, "1, 2", "1, 2"),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "5", 5),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "12", "12"),
        ({"oneOf": [{"type": "array"}, {"type": "string"}]}, "[1]", [1]),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"const": "3"}, "3", "3"),
        ({"properties": {}}, "{}", {}),
        ({"type": "float"}, "3.5", 3.5),
        ({"type": "dict"}, '{"a": 1}', {"a": 1}),
        ({"type": "anything"}, "5", "5"),
        ({}, "5", 5),
        ({}, "plain words", "plain words"),
        ("no schema", "[true]", [True]),
        ({"type": 3}, "5", 5),
        ({"anyOf": "no list"}, "5", 5),
    ],
)
def test_a_text_becomes_a_value_of_a_type_that_is_declared(schema: object, text: str, expected: Any) -> None:
    found = value(text, schema)
    assert found == expected
    assert type(found) is type(expected)


def test_a_reference_is_followed() -> None:
    definitions = {
        "unit": {"type": "string", "enum": ["5"]},
        "again": {"$ref": "#/$defs/unit"},
        "me": {"$ref": "#/$defs/me"},
    }
    assert value("5", {"$ref": "#/$defs/unit"}, **{"$defs": definitions}) == "5"
    assert value("5", {"allOf": [{"$ref": "#/$defs/again"}]}, **{"$defs": definitions}) == "5"
    assert value("5", {"$ref": "#/$defs/me"}, **{"$defs": definitions}) == 5
    assert value("5", {"$ref": "#/$defs/absent"}, **{"$defs": definitions}) == 5
    assert value("5", {"$ref": "elsewhere.json"}, **{"$defs": definitions}) == 5


def test_a_schema_that_contains_itself_is_read_in_bounded_time() -> None:
    root: dict[str, Any] = {"anyOf": [{"$ref": "#"} for _ in range(50)], "type": ["integer"]}
    assert value("5", root, **root) == 5


def test_members_and_items_have_the_schema_of_an_alternative() -> None:
    schema = Schema({"anyOf": [{"type": "null"}, {"type": "object", "properties": {"a": {"type": "string"}}}]}, {})
    assert schema.property("a").types() == ["string"]
    assert schema.property("b").types() == []
    items = Schema({"type": "array", "items": {"type": "integer"}}, {}).item()
    assert items.types() == ["integer"]


@pytest.mark.parametrize(
    "tool",
    [
        {},
        {"function": None},
        {"function": {"name": "g"}},
        {"function": {"name": "f"}},
        {"function": {"name": "f", "parameters": 3}},
    ],
)
def test_tools_without_parameters_declare_none(tool: dict[str, Any]) -> None:
    parameters = parameters_of("f", [tool])
    assert not parameters.names
    assert parameters.is_declared == ((tool.get("function") or {}).get("name") == "f")


@given(st.text(), st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "null", "other"]))
def test_any_text_has_a_value_that_is_json(text: str, name: str) -> None:
    found = value(text, {"type": name})
    assert name != "string" or found == text
    as_json(found)
