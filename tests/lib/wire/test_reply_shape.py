import json
import re
from typing import Any

import pytest

from neuron_lib.errors import InvalidRequest
from neuron_lib.types import Grammar
from neuron_lib.wire.bodies import MalformedJson
from neuron_lib.wire.openai_chat import decode

SCHEMA = {"type": "object", "required": ["zz"]}
TEXT = '{"type":"object","required":["zz"]}'
LARK = 'start: "a"'


def grammar(**fields: Any) -> Grammar | None:
    body = json.dumps({"model": "a/b", "messages": [{"role": "user", "content": "x"}]} | fields).encode()
    return decode(body, headers={"content-type": "application/json"}, principal=None).task.grammar


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "json_object", "json_schema": {"schema": SCHEMA}}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "json", "value": SCHEMA}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, Grammar("json_schema", TEXT)),
        ({"response_format": {"type": "json_object", "schema": None}}, Grammar("json_schema", '{"type":"object"}')),
        ({"response_format": {"type": "regex", "value": "a+"}}, Grammar("regex", "a+", "response_format")),
        ({"json_schema": SCHEMA}, Grammar("json_schema", TEXT, "json_schema")),
        ({"guided_json": SCHEMA}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_json": TEXT}, Grammar("json_schema", TEXT, "guided_json")),
        ({"guided_regex": "a+"}, Grammar("regex", "a+", "guided_regex")),
        ({"guided_choice": ["a", "b c"]}, Grammar("regex", "(a|b c)", "guided_choice")),
        ({"guided_grammar": LARK}, Grammar("lark", LARK, "guided_grammar")),
        ({"structured_outputs": {"json": SCHEMA}}, Grammar("json_schema", TEXT, "structured_outputs.json")),
        ({"structured_outputs": {"json": TEXT}}, Grammar("json_schema", TEXT, "structured_outputs.json")),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+", "structured_outputs.regex")),
        ({"structured_outputs": {"choice": ["x"]}}, Grammar("regex", "(x)", "structured_outputs.choice")),
        ({"structured_outputs": {"grammar": LARK}}, Grammar("lark", LARK, "structured_outputs.grammar")),
        (
            {"structured_outputs": {"json_object": True, "regex": None}},
            Grammar("json_schema", '{"type":"object"}', "structured_outputs.json_object"),
        ),
    ],
)
def test_every_spelling_of_a_shape_is_understood(fields: dict[str, Any], expected: Grammar) -> None:
    assert grammar(**fields) == expected


def test_null_asks_for_no_shape() -> None:
    names = "response_format json_schema guided_json guided_regex guided_choice guided_grammar structured_outputs"
    assert grammar(**dict.fromkeys(names.split())) is None


CHOICES = ["a.b", "(x)", "a|b", "$5 & ~#-", "back\\slash", "line\nbreak", "[{^}]?*+", "é ✅"]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_what_it_is_letter_by_letter(choice: str) -> None:
    bound = grammar(guided_choice=[choice, "other"])
    assert bound is not None
    assert re.fullmatch(bound.source, choice)
    assert not re.fullmatch(bound.source, choice + "x")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object", "schema": 123}}, "response_format.schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "json_object", "schema": SCHEMA, "value": SCHEMA}}, "response_format.value"),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.schema"),
        ({"response_format": {"type": "text", "json_schema": {"schema": SCHEMA}}}, "response_format.json_schema"),
        ({"response_format": {"type": "regex", "value": "a", "schema": SCHEMA}}, "response_format.value"),
        (
            {"response_format": {"type": "json_schema", "schema": SCHEMA, "json_schema": {"schema": SCHEMA}}},
            "response_format.schema",
        ),
        ({"response_format": {"type": "json"}}, "response_format.value"),
        ({"response_format": {"type": "regex", "value": 1}}, "response_format.value"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"json_schema": "{}"}, "json_schema"),
        ({"json_schema": 1}, "json_schema"),
        ({"guided_json": "no json"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": 1.5}, "guided_json"),
        ({"guided_regex": []}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice[1]"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": "json"}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"json": 1}}, "structured_outputs.json"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"json": {}, "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        (
            {"structured_outputs": {"json": {}, "disable_additional_properties": True}},
            "structured_outputs.disable_additional_properties",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"guided_json": {}, "json_schema": {}}, "guided_json"),
        ({"guided_choice": ["x" * (256 << 10)]}, "guided_choice"),
        ({"guided_json": {"maximum": 2**64}}, "guided_json"),
        ({"json_schema": {"const": "x" * (256 << 10)}}, "json_schema"),
        ({"guided_json": '{"const":"%s"}' % ("x" * (256 << 10))}, "guided_json"),
    ],
)
def test_a_shape_that_is_not_understood_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar(**fields)
    assert caught.value.param == param


def test_a_schema_that_comes_as_text_has_the_same_bounds() -> None:
    with pytest.raises(MalformedJson, match="guided_json: nested deeper"):
        grammar(guided_json='{"not":' * 120 + "{}" + "}" * 120)
    with pytest.raises(MalformedJson, match="guided_json: more than"):
        grammar(guided_json='{"enum":[' + "0," * 110_000 + "0]}")
