import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.tool_calls import parse_tool_call


def function(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def tagged(name: str, **values: str) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"\n<function={name}>\n{parameters}</function>\n"


def coerced(text: str, schema: object) -> Any:
    call = parse_tool_call(tagged("f", x=text), [function("f", x=schema)])
    assert call is not None
    return json.loads(call.arguments)["x"]


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"name": "f", "arguments": {"city": "Zürich", "n": 1.5}}', '{"city":"Zürich","n":1.5}'),
        ('\n{"name":"f","arguments":"{\\"a\\": [1]}"}\n', '{"a":[1]}'),
        ('{"name":"f"}', "{}"),
        ('{"name":"f","arguments":null,"extra":1}', "{}"),
        ('{"name":"f","arguments":{"n":123456789012345678901234567890}}', '{"n":123456789012345678901234567890}'),
    ],
)
def test_a_json_body_gives_its_arguments_as_json_text(body: str, arguments: str) -> None:
    assert parse_tool_call(body, []) == ("f", arguments)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no call",
        '{"name": "f", "arguments": {',
        '{"arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "not json"}',
        '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": {"x": NaN}}',
        '{"name": "f"} {"name": "g"}',
        '[{"name": "f"}]',
        '{"name": "f", "arguments": ' + '{"a":' * 200_000 + "1" + "}" * 200_000 + "}",
        '{"name": "f", "arguments": {"x": "\ud800"}}',
        "<function=f>",
        "<function=></function>",
        "<function=f><parameter=x>1</function>",
        "<function=f><parameter=>1</parameter></function>",
        "<function=f>text<parameter=x>1</parameter></function>",
        "<function=f><parameter=x>1</parameter>text</function>",
        "<function=f></function> text",
        "<other>",
    ],
)
def test_a_body_in_neither_form_is_not_understood(body: str) -> None:
    assert parse_tool_call(body, []) is None


def test_a_tagged_body_keeps_every_line_of_a_value_but_the_frame() -> None:
    call = parse_tool_call(tagged("write", path="a b.txt", text="\n  one\n\ntwo <b>\n"), [])
    assert call is not None
    assert call.name == "write"
    assert json.loads(call.arguments) == {"path": "a b.txt", "text": "\n  one\n\ntwo <b>\n"}


def test_a_tagged_body_without_parameters_has_empty_arguments() -> None:
    assert parse_tool_call("<function=now></function>", []) == ("now", "{}")


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "null", "null"),
        ({"type": "integer"}, "5", 5),
        ({"type": "integer"}, " -7 ", -7),
        ({"type": "integer"}, "5.5", "5.5"),
        ({"type": "integer"}, "true", "true"),
        ({"type": "integer"}, "five", "five"),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "number"}, "2", 2),
        ({"type": "number"}, "1e400", "1e400"),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"type": "array"}, "1, 2", "1, 2"),
        ({"type": ["integer", "null"]}, "None", "None"),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "5", 5),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "5", 5),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x", "x"),
        ({"oneOf": [{"type": "array"}]}, "[]", []),
        ({"type": "tuple"}, "5", "5"),
        ({}, "5", 5),
        ({}, "plain words", "plain words"),
        ({"type": 3}, "[true]", [True]),
        ("no schema", "5", 5),
        ({"anyOf": "no list"}, "5", 5),
    ],
)
def test_a_value_takes_its_declared_type_or_stays_text(schema: object, text: str, value: Any) -> None:
    result = coerced(text, schema)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "tools",
    [
        [],
        [{}],
        [{"function": "f"}],
        [function("other", x={"type": "string"})],
        [{"function": {"name": "f", "parameters": []}}],
        [{"function": {"name": "f", "parameters": {"properties": "x"}}}],
        [{"function": {"name": "f"}}],
    ],
)
def test_an_undeclared_parameter_is_read_as_json_if_it_is_json(tools: list[dict[str, Any]]) -> None:
    assert parse_tool_call(tagged("f", x="5", y="five"), tools) == ("f", '{"x":5,"y":"five"}')


@given(st.text(alphabet='<>/={}"fpx \n', max_size=60), st.booleans())
def test_any_body_is_read_or_refused_without_an_error(noise: str, framed: bool) -> None:  # noqa: FBT001
    body = f"<function=f>{noise}</function>" if framed else noise
    call = parse_tool_call(body, [])
    assert call is None or isinstance(json.loads(call.arguments), dict)
