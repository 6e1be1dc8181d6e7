import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.formats.json_calls import ends_inside_value, parse_tool_calls
from neuron_lib.text.formats.tool_format import ParsedCall


def function(name: str, **properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


def tagged(name: str, **values: str) -> str:
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"\n<function={name}>\n{parameters}</function>\n"


def the_call(body: str, tools: list[dict[str, Any]]) -> ParsedCall | None:
    calls = parse_tool_calls(body, tools)
    assert len(calls) < 2
    return calls[0] if calls else None


def coerced(text: str, schema: object) -> Any:
    call = the_call(tagged("f", x=text), [function("f", x=schema)])
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
    assert the_call(body, []) == ("f", arguments)


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
        '{"name": "f", "city": "Rome"}',
        '{"name": "f", "description": "d", "parameters": {"a": 1}}',
        '{"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}',
        '{"name": "f", "arguments": {"a": 1}, "parameters": {"a": 2}}',
        '{"name": "f", "parameters": [1]}',
        '{"name": "f", "args": "x"}',
        '{"name": "f", "arguments": {"x": 1e999}}',
        '{"name": "\\ud800", "arguments": {}}',
        '{"name": "f", "arguments": {}, "input": {"path": "/x"}}',
        '{"name": "f", "arguments": null, "kwargs": ["/x"]}',
        '{"function": {"arguments": {}}}',
        '{"function": "f", "city": "Rome"}',
        '{"name": "f"} and {"name": "g"}',
        '{"name": "f"} {"city": "Rome"}',
        '[{"name": "f"}, 3]',
        "[]",
        "3",
        '"f"',
        "```json\nno call\n```",
        "{'name': 'f', 'arguments': {'a': open('x')}}",
        "{'name': 'f', 'arguments': {'a': 'it's'}}",
        "<function=f></function><function=g>",
        "<function=f><parameter=x>1</function></function>",
        '{"name": "f", "arguments": ' + '{"a":' * 200_000 + "1" + "}" * 200_000 + "}",
        '{"name": "f", "arguments": {"x": "\ud800"}}',
        "<function=f>",
        "<function=></function>",
        "<function=f><parameter=>1</parameter></function>",
        "<function=f>text<parameter=x>1</parameter></function>",
        "<function=f><parameter=x>1</parameter>text</function>",
        "<function=f></function> text",
        "<other>",
    ],
)
def test_a_body_in_neither_form_is_not_understood(body: str) -> None:
    assert the_call(body, []) is None


def test_a_tagged_body_keeps_every_line_of_a_value_but_the_frame() -> None:
    call = the_call(tagged("write", path="a b.txt", text="\n  one\n\ntwo <b>\n"), [])
    assert call is not None
    assert call.name == "write"
    assert json.loads(call.arguments) == {"path": "a b.txt", "text": "\n  one\n\ntwo <b>\n"}


def test_a_tagged_body_without_parameters_has_empty_arguments() -> None:
    assert the_call("<function=now></function>", []) == ("now", "{}")


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
    assert the_call(tagged("f", x="5", y="five"), tools) == ("f", '{"x":5,"y":"five"}')


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f", "parameters": {"a": 1}}',
        '{"name": "f", "args": {"a": 1}}',
        '{"name": "f", "args": "{\\"a\\": 1}"}',
        '{"name": "f", "arguments": {}, "parameters": {"a": 1}}',
        '{"function": {"name": "f", "arguments": {"a": 1}}}',
        '{"type": "function", "id": "1", "function": {"name": "f", "parameters": "{\\"a\\": 1}"}}',
        '{"function": {"name": "f"}, "arguments": {"a": 1}}',
        '{"function": "f", "arguments": {"a": 1}}',
        '{"type": "function", "name": "f", "parameters": {"a": 1}}',
        '[{"name": "f", "arguments": {"a": 1}}]',
        '```json\n{"name": "f", "arguments": {"a": 1}}\n```',
        '```\n[{"name": "f", "arguments": {"a": 1}}]```',
        '{"name": "f", "arguments": {"a": 1}}</tool_call>',
        "{'name': 'f', 'arguments': {'a': 1}}",
        "<function=f><parameter=a>1</function>",
        "<function=f>\n<parameter=a>\n1\n</function>",
    ],
)
def test_every_form_that_models_write_is_the_same_call(body: str) -> None:
    assert parse_tool_calls(body, []) == (("f", '{"a":1}'),)


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "f"}',
        '{"name": "f", "arguments": ""}',
        '{"name": "f", "arguments": " "}',
        '{"name": "f", "arguments": "null"}',
        '{"name": "f", "arguments": "{}"}',
        '{"name": "f", "parameters": null}',
        '{"type": "function", "function": {"name": "f"}}',
        "{'name': 'f', 'arguments': None}",
        "<function=f>\n</function>",
    ],
)
def test_no_arguments_in_any_spelling_are_an_empty_object(body: str) -> None:
    assert parse_tool_calls(body, []) == (("f", "{}"),)


@pytest.mark.parametrize("between", ["\n", " ", ", ", ";", "\n<tool_call>\n", "</tool_call><tool_call>"])
def test_several_objects_in_a_block_are_several_calls(between: str) -> None:
    calls = '{"name": "f", "arguments": {"a": 1}}', '{"name": "g", "parameters": {"b": 2}}'
    assert parse_tool_calls(between.join(calls), []) == (("f", '{"a":1}'), ("g", '{"b":2}'))


def test_a_list_of_objects_is_several_calls() -> None:
    body = '[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "parameters": {"b": 2}}]'
    assert parse_tool_calls(body, []) == (("f", '{"a":1}'), ("g", '{"b":2}'))


def test_several_functions_in_a_block_are_several_calls() -> None:
    body = tagged("f", a="1") + tagged("g", b="</function> x", c="2") + tagged("h")
    assert parse_tool_calls(body, []) == (("f", '{"a":1}'), ("g", '{"b":"</function> x","c":2}'), ("h", "{}"))


def test_a_value_may_hold_what_looks_like_tags() -> None:
    text = "</function>\n<function=g>\n<parameter=b>"
    call = the_call(tagged("f", a=text, b="1"), [])
    assert call is not None
    assert json.loads(call.arguments) == {"a": text, "b": 1}


def test_a_parameter_without_an_end_ends_where_the_next_begins() -> None:
    body = "<function=f>\n<parameter=a>\n1\n<parameter=b>\ntwo\n</parameter>\n<parameter=c>\nx < y\n</function>"
    assert parse_tool_calls(body, []) == (("f", '{"a":1,"b":"two","c":"x < y"}'),)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it\\'s'", "it's"),
        ("'say \"hi\"'", 'say "hi"'),
        ('"it\'s True"', "it's True"),
        ("'a\\nb'", "a\nb"),
        ("'a\nb'", "a\nb"),
        ("[True, False, None]", [True, False, None]),
        ("'None'", "None"),
        ("-1.5", -1.5),
    ],
)
def test_python_s_way_to_write_values_is_understood(text: str, value: Any) -> None:
    call = the_call("{'name': 'f', 'arguments': {'x': " + text + "}}", [])
    assert call is not None
    assert json.loads(call.arguments) == {"x": value}


@pytest.mark.parametrize(
    ("body", "is_inside"),
    [
        ('{"name": "f", "arguments": {"x": "a ', True),
        ('[{"name": "f", "arguments": {"x": "a \\" ', True),
        ('```json\n{"x": "a', True),
        ('{"name": "f", "arguments": {"x": "a"}}', False),
        ('{"name": "f"', False),
        ('a "quote', False),
        ("<function=f>\n<parameter=x>\na ", True),
        ("<function=f>\n<parameter=x>\na\n</parameter>\n", False),
        ("<function=f>\n<parameter=x>\na\n</function>\n", False),
        ("", False),
    ],
)
def test_where_a_marker_is_part_of_a_value_is_known(body: str, is_inside: bool) -> None:  # noqa: FBT001
    assert ends_inside_value(body) is is_inside


@given(st.text(alphabet='<>/={}"fpx \n', max_size=60), st.booleans())
def test_any_body_is_read_or_refused_without_an_error(noise: str, framed: bool) -> None:  # noqa: FBT001
    body = f"<function=f>{noise}</function>" if framed else noise
    assert all(isinstance(json.loads(call.arguments), dict) for call in parse_tool_calls(body, []))
