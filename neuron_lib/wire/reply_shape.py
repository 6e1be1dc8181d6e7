"""Reads what a reply must look like, in all fields that clients of OpenAI, vLLM, llama.cpp and TGI use for this."""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from neuron_lib.shown import clip
from neuron_lib.types import Grammar
from neuron_lib.wire.bodies import NOTHING, AnyObject, decode_part, is_given, read_as
from neuron_lib.wire.json_bounds import check_nesting_and_numbers, check_values, refusal
from neuron_lib.wire.sampling_fields import SamplingFields

__all__ = ("Format", "ReplyShapeFields", "grammar_of", "shapes_of_format")

_MAX_GRAMMAR_BYTES: Final = 256 << 10
_MAX_CHOICES: Final = 4096
_ANY_OBJECT: Final = '{"type":"object"}'

_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$#&~-]")
"""What means something in a regular expression of Rust's."""


_Schema: TypeAlias = AnyObject | bool
_Choices: TypeAlias = Annotated[list[str], Meta(min_length=1, max_length=_MAX_CHOICES)]


class _Named(Struct):
    schema: Annotated[msgspec.Raw, read_as(_Schema)]


class Format(Struct):
    """The field `response_format`."""

    type: str
    json_schema: Annotated[msgspec.Raw, read_as(_Named)] = NOTHING
    schema: Annotated[msgspec.Raw, read_as(_Schema)] = NOTHING
    value: msgspec.Raw = NOTHING


class _Outputs(Struct):
    json: Annotated[msgspec.Raw, read_as(_Schema | str)] = NOTHING
    regex: str | None = None
    choice: Annotated[msgspec.Raw, read_as(_Choices)] = NOTHING
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: msgspec.Raw = NOTHING
    whitespace_pattern: str | None = None
    disable_additional_properties: bool | None = None


class ReplyShapeFields(SamplingFields, frozen=True, kw_only=True):
    """The fields of a body that say how the reply is made: its sampling, and what it must look like.

    Schemas stay text: the engine reads them. (A struct can have one base with fields only, hence this one.)
    """

    response_format: Annotated[msgspec.Raw, read_as(Format)] = NOTHING
    json_schema: Annotated[msgspec.Raw, read_as(_Schema)] = NOTHING
    regex: str | None = None
    grammar: str | None = None
    guided_json: Annotated[msgspec.Raw, read_as(_Schema | str)] = NOTHING
    guided_regex: str | None = None
    guided_choice: Annotated[msgspec.Raw, read_as(_Choices)] = NOTHING
    guided_grammar: str | None = None
    structured_outputs: Annotated[msgspec.Raw, read_as(_Outputs)] = NOTHING


_format: Final = msgspec.json.Decoder(Format)
_named: Final = msgspec.json.Decoder(_Named)
_outputs: Final = msgspec.json.Decoder(_Outputs)
_schema: Final = msgspec.json.Decoder(_Schema)
_schema_or_text: Final = msgspec.json.Decoder(_Schema | str)
_text: Final = msgspec.json.Decoder(str)
_choices: Final = msgspec.json.Decoder(list[str])

_Shapes: TypeAlias = Iterator[tuple[str, Grammar]]


def grammar_of(fields: ReplyShapeFields, *, also: Iterable[tuple[str, Grammar]] = ()) -> Grammar | None:
    """What the reply must look like; None if it may be anything. `also` has shapes from further fields, by their names.

    Raises `MalformedJson` or `InvalidRequest`, whose `param` is the field: the field is not understood or too long, or
    another field says something else.
    """
    shapes = dict(_shapes(fields)) | dict(also)
    if len(shapes) > 1:
        names = tuple(shapes)
        raise refusal(names[-1], f"of {' and '.join(names)} only one can say what the reply looks like")
    for name, grammar in shapes.items():
        if len(grammar.source.encode()) > _MAX_GRAMMAR_BYTES:
            raise refusal(name, f"longer than {_MAX_GRAMMAR_BYTES} bytes")
        return grammar
    return None


def _shapes(fields: ReplyShapeFields) -> _Shapes:
    """Each shape that the body asks for, with the name of its field."""
    if is_given(fields.response_format):
        yield from shapes_of_format(fields.response_format, "response_format")
    if is_given(fields.json_schema):
        yield _by_schema(fields.json_schema, "json_schema", field="json_schema")
    if fields.regex is not None:
        yield "regex", Grammar("regex", fields.regex)
    if fields.grammar is not None:
        yield "grammar", Grammar("lark", fields.grammar)
    if is_given(fields.guided_json):
        yield _by_schema(fields.guided_json, "guided_json", field="guided_json", may_be_text=True)
    if fields.guided_regex is not None:
        yield "guided_regex", Grammar("regex", fields.guided_regex, "guided_regex")
    if is_given(fields.guided_choice):
        yield _by_choice(fields.guided_choice, "guided_choice")
    if fields.guided_grammar is not None:
        yield "guided_grammar", Grammar("lark", fields.guided_grammar, "guided_grammar")
    if is_given(fields.structured_outputs):
        yield from _of_outputs(fields.structured_outputs)


def shapes_of_format(text: msgspec.Raw, field: str, *, missing: str = "json_schema") -> Iterator[tuple[str, Grammar]]:
    """The shape that an object like OpenAI's `response_format` asks for, if any. `field` is its path.

    `missing` is the field that an error names if there is no schema where one is needed.

    Raises `MalformedJson` or `InvalidRequest`, whose `param` is the path of the wrong value.
    """
    wanted = decode_part(_format, text, param=field)
    given = [name for name in ("json_schema", "schema", "value") if is_given(getattr(wanted, name))]
    match wanted.type, given:
        case "text", []:
            return
        case "json_object", []:
            yield field, Grammar("json_schema", _ANY_OBJECT)
        case "json_schema", []:
            raise refusal(f"{field}.{missing}", "this field is required")
        case "json_object" | "json_schema", ["json_schema"]:
            place = f"{field}.json_schema"
            named = decode_part(_named, wanted.json_schema, param=place)
            yield _by_schema(named.schema, f"{place}.schema", field=field)
        case "json_object" | "json_schema", ["schema"]:
            yield _by_schema(wanted.schema, f"{field}.schema", field=field)
        case ("json", [] | ["value"]) | ("json_object", ["value"]):
            yield _by_schema(wanted.value, f"{field}.value", field=field)
        case "regex", [] | ["value"]:
            yield field, Grammar("regex", decode_part(_text, wanted.value, param=f"{field}.value"), field)
        case "text" | "json_object" | "json_schema" | "json" | "regex", [*_, name]:
            raise refusal(f"{field}.{name}", "beside the other fields this has no meaning")
        case _:
            known = 'expected one of "text", "json_object", "json_schema", "json" and "regex"'
            raise refusal(f"{field}.type", known, quoting=f"; it is {clip(wanted.type)!r}")


def _of_outputs(text: msgspec.Raw) -> _Shapes:
    field = "structured_outputs"
    wanted = decode_part(_outputs, text, param=field)
    for name in ("structural_tag", "whitespace_pattern", "disable_additional_properties"):
        value = getattr(wanted, name)
        if value not in (None, False) and (not isinstance(value, msgspec.Raw) or is_given(value)):
            raise refusal(f"{field}.{name}", "this is not supported")
    is_empty = True
    for name, shape in _each_output(wanted, field):
        is_empty = False
        yield name, shape
    if is_empty:
        raise refusal(field, "one of json, regex, choice, grammar and json_object is required")


def _each_output(wanted: _Outputs, field: str) -> _Shapes:
    if is_given(wanted.json):
        yield _by_schema(wanted.json, f"{field}.json", field=f"{field}.json", may_be_text=True)
    if wanted.regex is not None:
        yield f"{field}.regex", Grammar("regex", wanted.regex, f"{field}.regex")
    if is_given(wanted.choice):
        yield _by_choice(wanted.choice, f"{field}.choice")
    if wanted.grammar is not None:
        yield f"{field}.grammar", Grammar("lark", wanted.grammar, f"{field}.grammar")
    if wanted.json_object:
        yield f"{field}.json_object", Grammar("json_schema", _ANY_OBJECT, f"{field}.json_object")


def _by_schema(text: msgspec.Raw, place: str, *, field: str, may_be_text: bool = False) -> tuple[str, Grammar]:
    """The grammar of a JSON schema. The schema stays as the client wrote it, without white space."""
    schema = bytes(text)
    value = decode_part(_schema_or_text if may_be_text else _schema, schema, param=place)
    if isinstance(value, str):
        schema = value.encode()
    if len(schema) > _MAX_GRAMMAR_BYTES:
        raise refusal(field, f"longer than {_MAX_GRAMMAR_BYTES} bytes")
    if isinstance(value, str):
        check_values(schema, place=place)
        decode_part(_schema, schema, param=place)
    check_nesting_and_numbers(schema, param=place)
    schema = msgspec.json.format(schema, indent=-1)
    return field, Grammar("json_schema", schema.decode(), None if field == "response_format" else field)


def _by_choice(text: msgspec.Raw, field: str) -> tuple[str, Grammar]:
    """The grammar of a reply that must be one of several texts."""
    choices = decode_part(_choices, text, param=field)
    if not 1 <= len(choices) <= _MAX_CHOICES:
        raise refusal(field, f"Expected `array` of length 1 to {_MAX_CHOICES}")
    pattern = "|".join(_SPECIAL.sub(r"\\\g<0>", choice) for choice in choices)
    return field, Grammar("regex", f"({pattern})", field)
