"""Grammar rules for arguments that are not one JSON object: a tag for each, tags in tags, or a notation of its own.

Arguments come in the order in which the tool declares them. A text is written as it is, anything else as JSON.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from neuron_lib.text.formats.rules import RuleWriter
from neuron_lib.text.formats.values import Schema

__all__ = ("Tags", "write_members", "write_nested", "write_notation")

_DEEPEST: Final = 6
"""Objects and lists inside each other that get rules of their own. What is deeper is written as JSON."""
_LONGEST_COUNTED: Final = 1000
"""Characters up to which a `maxLength` is kept. A larger one makes the grammar large, and no small model reaches it."""
_FREE_NAME: Final = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"


class Tags(NamedTuple):
    """The texts around an argument: `opening` makes that before the value from the name and from whether the value is a
    text. `closing` makes that behind it from the name. Neither is empty.
    """

    opening: Callable[[str, bool], str]
    closing: Callable[[str], str]


class _Argument(NamedTuple):
    name: str
    schema: Schema
    is_required: bool


def write_members(writer: RuleWriter, parameters: Mapping[str, Any], tags: Tags) -> str:
    """Terms for all arguments of a function, each in tags. `parameters` is the schema of its parameters."""
    schema = Schema(parameters, parameters)
    terms = []
    for argument in _arguments(schema):
        name = argument.name
        opening = writer.text(tags.opening(name, _is_text(argument.schema)))
        terms.append(_maybe(f"{opening} {_tagged_value(writer, argument.schema, tags.closing(name))}", argument))
    if not terms and _is_free(schema):
        # The name is free, so it cannot be in the closing tag.
        before, after = tags.opening("\0", True).split("\0", 1)
        text = _raw_text(writer, Schema({}, {}), tags.closing(""))
        return f"({writer.text(before)} {_FREE_NAME} {writer.text(after)} {text})*"
    return " ".join(terms) or '""'


def write_nested(writer: RuleWriter, parameters: Mapping[str, Any], tags: Tags, *, item: str) -> str:
    """As `write_members`, with objects and lists written as tags in tags. `item` is the tag of an item of a list."""
    return _nested_members(writer, Schema(parameters, parameters), tags, item, depth=0)


def _nested_members(writer: RuleWriter, schema: Schema, tags: Tags, item: str, *, depth: int) -> str:
    terms = [
        _maybe(_nested(writer, argument.name, argument.schema, tags, item, depth=depth), argument)
        for argument in _arguments(schema)
    ]
    return " ".join(terms) or '""'


def _nested(writer: RuleWriter, name: str, schema: Schema, tags: Tags, item: str, *, depth: int) -> str:
    """Terms for one element, its tags included."""
    opening, closing = writer.text(tags.opening(name, _is_text(schema))), tags.closing(name)
    kinds = [kind for kind in schema.types() if kind != "null"]
    if kinds == ["object"] and depth < _DEEPEST and any(_arguments(schema)):
        inside = _nested_members(writer, schema, tags, item, depth=depth + 1)
    elif kinds == ["array"] and depth < _DEEPEST:
        each = writer.new_rule(_nested(writer, item, schema.item(), tags, item, depth=depth + 1))
        inside = each + _repeat(schema)
    else:
        return f"{opening} {_tagged_value(writer, schema, closing)}"
    return f"{opening} {inside} {writer.text(closing)}"


def write_notation(writer: RuleWriter, parameters: Mapping[str, Any], *, quote: str) -> str:
    """Terms for all arguments of a function in one object: `{name:value,name:value}`. `quote` is around each text."""
    return _notated_object(writer, Schema(parameters, parameters), quote, depth=0)


def _notated_object(writer: RuleWriter, schema: Schema, quote: str, *, depth: int) -> str:
    arguments = list(_arguments(schema))
    members = [
        f"{writer.text(argument.name + ':')} {_notated(writer, argument.schema, quote, depth=depth)}"
        for argument in arguments
    ]
    if not members and _is_free(schema):
        member = writer.new_rule(f'{_FREE_NAME} ":" {_notated_text(writer, schema, quote)}')
        return f'"{{" ({member} ("," {member})*)? "}}"'
    rules = [writer.new_rule(member) for member in members]
    return f'"{{" {_in_order(writer, rules, arguments)} "}}"'


def _in_order(writer: RuleWriter, members: Sequence[str], arguments: Sequence[_Argument]) -> str:
    """Terms for the members, with commas between those that are there."""
    first: list[str] = []
    for index, argument in enumerate(arguments):
        others = zip(members[index + 1 :], arguments[index + 1 :], strict=True)
        first.append(" ".join((members[index], *(_maybe(f'"," {member}', other) for member, other in others))))
        if argument.is_required:
            break
    else:
        first.append('""')
    return writer.new_rule(*first)


def _notated(writer: RuleWriter, schema: Schema, quote: str, *, depth: int) -> str:
    kinds = [kind for kind in schema.types() if kind != "null"]
    if "string" in kinds or not kinds:
        return _notated_text(writer, schema, quote)
    if kinds == ["object"] and depth < _DEEPEST:
        return _notated_object(writer, schema, quote, depth=depth + 1)
    if kinds == ["array"] and depth < _DEEPEST:
        each = writer.new_rule(_notated(writer, schema.item(), quote, depth=depth + 1))
        items = f'{each} ("," {each})*'
        return f'"[" {items if _is_needed(schema) else f"({items})?"} "]"'
    return writer.json(schema.alone())


def _notated_text(writer: RuleWriter, schema: Schema, quote: str) -> str:
    return f"{writer.text(quote)} {_raw_text(writer, schema, quote)}"


def _arguments(schema: Schema) -> Iterator[_Argument]:
    """The declared members of an object, and those that are required without being declared."""
    properties = schema.node.get("properties")
    required = schema.node.get("required")
    needed = [name for name in (required if isinstance(required, list) else []) if isinstance(name, str)]
    declared = list(properties) if isinstance(properties, Mapping) else []
    for name in (*declared, *(name for name in needed if name not in declared)):
        yield _Argument(name, schema.property(name), name in needed)


def _is_free(schema: Schema) -> bool:
    """Whether an object may have any members."""
    return "properties" not in schema.node and schema.node.get("additionalProperties") is not False


def _is_text(schema: Schema) -> bool:
    kinds = schema.types()
    return not kinds or "string" in kinds


def _maybe(terms: str, argument: _Argument) -> str:
    return terms if argument.is_required else f"({terms})?"


def _is_needed(schema: Schema) -> bool:
    fewest = schema.node.get("minItems")
    return isinstance(fewest, int) and fewest > 0


def _repeat(schema: Schema) -> str:
    return "+" if _is_needed(schema) else "*"


def _tagged_value(writer: RuleWriter, schema: Schema, closing: str) -> str:
    """Terms for a value and the closing text behind it."""
    if _is_text(schema):
        return _raw_text(writer, schema, closing)
    return f"{writer.json(schema.alone())} {writer.text(closing)}"


def _raw_text(writer: RuleWriter, schema: Schema, closing: str) -> str:
    """Terms for a text as it is, and for `closing`, which must not be in it."""
    listed = schema.listed()
    if listed:
        choices = " | ".join(writer.text(value if isinstance(value, str) else json.dumps(value)) for value in listed)
        return f"({choices}) {writer.text(closing)}"
    plain, rest = writer.plain_beginning(closing)
    if not plain:  # a special token, which is in no text
        return f"/{_pattern(schema)}/ {writer.text(rest)}"
    text = writer.new_rule(f"/{_pattern(schema)}/", suffix=plain)
    return f"{text} {writer.text(rest)}" if rest else text


def _pattern(schema: Schema) -> str:
    """A regular expression for the texts that the schema allows, in the syntax between slashes."""
    node = schema.node
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
        core = pattern[begins : len(pattern) - ends]
        free = "(?s:.*)"
        return f"{'' if begins else free}(?:{_unslashed(core)}){'' if ends else free}"
    shortest, longest = node.get("minLength"), node.get("maxLength")
    low = shortest if isinstance(shortest, int) and 0 <= shortest <= _LONGEST_COUNTED else 0
    high = longest if isinstance(longest, int) and low <= longest <= _LONGEST_COUNTED else None
    if not low and high is None:
        return "(?s:.*)"
    return f"(?s:.{{{low},{'' if high is None else high}}})"


def _unslashed(pattern: str) -> str:
    return re.sub(r"(\\.)|/", lambda match: match[1] or r"\/", pattern, flags=re.DOTALL)
