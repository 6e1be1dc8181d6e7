"""Writes grammar rules for calls, in llguidance's Lark dialect. Knows no family."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from neuron_lib.text.formats.tool_format import Tools

__all__ = (
    "RuleMaker",
    "RuleWriter",
    "argument_rules",
    "functions_of",
    "json_object_rules",
    "keyed_rules",
    "named_rules",
    "python_rules",
    "write_calls",
)

_JSON_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
"""As in `llama/grammar.py`: if white space is free, a model may write nothing else. Unknown keywords of a schema are
ignored, because a schema that is refused would refuse all tools.
"""


class RuleWriter:
    """Collects the rules of one grammar. `tokens` has the ids of markers that are one special token."""

    def __init__(self, tokens: Mapping[str, int]) -> None:
        self._tokens: Final = tokens
        marks = sorted(tokens, key=len, reverse=True)
        self._marks: Final = re.compile("|".join(map(re.escape, marks)) or r"(?!)")
        self._lines: Final[list[str]] = []

    @property
    def source(self) -> str:
        """The rules so far."""
        return "\n".join(self._lines) + "\n"

    def rule(self, name: str, *alternatives: str) -> None:
        """Add a rule. Each alternative is a sequence of terms."""
        self._lines.append(f"{name}: " + "\n  | ".join(alternatives))

    def new_rule(self, *alternatives: str, suffix: str = "") -> str:
        """Add a rule under a new name. Returns the name.

        With `suffix` the only alternative is a regular expression, whose match ends where `suffix` comes first. The
        suffix is part of what the rule matches.
        """
        name = f"call_part_{len(self._lines)}"
        attributes = f"[suffix={json.dumps(suffix, ensure_ascii=False)}]" if suffix else ""
        self.rule(name + attributes, *alternatives)
        return name

    def plain_beginning(self, text: str) -> tuple[str, str]:
        """`text` up to the first marker that is a special token, and the rest of it."""
        mark = self._marks.search(text)
        place = len(text) if mark is None else mark.start()
        return text[:place], text[place:]

    def text(self, text: str) -> str:
        """Terms for exactly this text. The markers in it are special tokens if the vocabulary has them as such."""
        return " ".join(self._terms(text)) or '""'

    def json(self, schema: Mapping[str, Any]) -> str:
        """A term for a JSON value that fits the schema."""
        return "%json " + json.dumps({**schema, "x-guidance": _JSON_STYLE})

    def _terms(self, text: str) -> Iterator[str]:
        position = 0
        for mark in self._marks.finditer(text):
            if mark.start() > position:
                yield json.dumps(text[position : mark.start()])
            yield f"<[{self._tokens[mark[0]]}]>"
            position = mark.end()
        if position < len(text):
            yield json.dumps(text[position:])


RuleMaker: TypeAlias = Callable[[RuleWriter, Tools, bool], None]
"""Adds the rule `calls` for these tools. Several calls may follow one another if the last argument is true."""


def functions_of(tools: Tools) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name and the schema of the parameters of each function among the tools."""
    for tool in tools:
        match tool:
            case {"function": {"name": str(name), "parameters": Mapping() as parameters}}:
                yield name, parameters
            case {"function": {"name": str(name)}}:
                yield name, {"type": "object"}
            case _:
                pass


def write_calls(
    writer: RuleWriter,
    tools: Tools,
    *,
    call: Callable[[str, Mapping[str, Any]], str],
    is_parallel: bool,
    begin: str = "",
    between: str = "",
    end: str = "",
    before: str = "",
) -> None:
    """Add the rules `calls` and `call_any`, for calls between `begin` and `end`, with `between` between two of them.

    `before` are terms that stand before everything. `call` makes the terms of one call from a function's name and the
    schema of its parameters.
    """
    several = f"call_any ({writer.text(between) if between else ''} call_any)*" if is_parallel else "call_any"
    around = [*([before] if before else []), *([writer.text(begin)] if begin else [])]
    writer.rule("calls", " ".join((*around, several, *([writer.text(end)] if end else []))))
    names = [f"call_{index}" for index, _ in enumerate(functions_of(tools))]
    writer.rule("call_any", *names)
    for rule, (name, parameters) in zip(names, functions_of(tools), strict=True):
        writer.rule(rule, call(name, parameters))


def argument_rules(
    writer: RuleWriter,
    rule: str,
    parameters: Mapping[str, Any],
    *,
    argument: Callable[[str, Mapping[str, Any]], str],
    separator: str = "",
) -> None:
    """Add the rule `rule` for the arguments of one call, in the order in which `parameters` declares them.

    Required arguments are there, others may be there. `argument` makes the terms of one argument from its name and its
    schema. All names of further rules begin with `rule`.
    """
    schemas = dict(_properties(parameters))
    listed = parameters.get("required")
    needed = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    writer.rule(rule, f"{rule}_first_0")
    for index, (name, schema) in enumerate(schemas.items()):
        own, after = f"{rule}_{index}", f"{rule}_next_{index + 1}"
        writer.rule(own, argument(name, schema))
        between = f"{writer.text(separator)} " if separator else ""
        is_needed = name in needed
        writer.rule(f"{rule}_first_{index}", f"{own} {after}", *([] if is_needed else [f"{rule}_first_{index + 1}"]))
        writer.rule(f"{rule}_next_{index}", f"{between}{own} {after}", *([] if is_needed else [after]))
    for last in ("first", "next"):
        writer.rule(f"{rule}_{last}_{len(schemas)}", '""')


def _properties(parameters: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The declared arguments, each with a schema that stands alone."""
    properties = parameters.get("properties")
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    for name, schema in properties.items() if isinstance(properties, Mapping) else ():
        yield name, {**schema, **shared} if isinstance(schema, Mapping) else {}


def json_object_rules(
    *,
    begin: str = "",
    before: str = "",
    after: str = "",
    between: str = "",
    end: str = "",
    name_key: str = "name",
    arguments_key: str = "arguments",
    numbered_key: str = "",
) -> RuleMaker:
    """Rules for calls that are JSON objects with a name and arguments.

    `begin` and `end` are around all calls and `between` between two of them, `before` and `after` are around each call.
    An object begins with `numbered_key`, whose value is a number as text, if that is not "".
    """

    def write(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        def call(name: str, parameters: Mapping[str, Any]) -> str:
            head = f'"{name_key}": {json.dumps(name)}, "{arguments_key}": '
            begun = writer.text(before + "{" + head)
            if numbered_key:
                number = writer.text(f'{before}{{"{numbered_key}": ')
                begun = f'{number} /"[0-9]{{1,3}}"/ {writer.text(", " + head)}'
            return f"{begun} {writer.json(parameters)} {writer.text('}' + after)}"

        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=between, end=end)

    return write


def keyed_rules(*, begin: str, between: str, end: str) -> RuleMaker:
    """Rules for calls that are JSON objects with one member: the function's name, and its arguments."""

    def write(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        def call(name: str, parameters: Mapping[str, Any]) -> str:
            return f"{writer.text('{' + json.dumps(name) + ': ')} {writer.json(parameters)} {writer.text('}')}"

        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=between, end=end)

    return write


def named_rules(
    *, begin: str = "", before: str = "", behind_name: str, after: str = "", between: str = "", end: str = ""
) -> RuleMaker:
    """Rules for calls that are a name in front of a JSON object with the arguments.

    `begin` and `end` are around all calls and `between` between two of them, `before` and `after` are around each call.
    """

    def write(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        def call(name: str, parameters: Mapping[str, Any]) -> str:
            behind = writer.text(after) if after else ""
            return f"{writer.text(before + name + behind_name)} {writer.json(parameters)} {behind}".rstrip()

        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=between, end=end)

    return write


def python_rules(*, begin: str = "", between: str = ", ", end: str = "") -> RuleMaker:
    """Rules for calls such as `f(a=1, b="x")`. The values are written as JSON, which is read there too."""

    def write(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        rules = (f"call_arguments_{index}" for index in range(len(tools)))

        def call(name: str, parameters: Mapping[str, Any]) -> str:
            rule = next(rules)
            argument_rules(writer, rule, parameters, argument=python_argument, separator=", ")
            return f"{writer.text(name + '(')} {rule} {writer.text(')')}"

        def python_argument(name: str, schema: Mapping[str, Any]) -> str:
            return f"{writer.text(name + '=')} {writer.json(schema)}"

        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=between, end=end)

    return write
