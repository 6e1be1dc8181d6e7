"""Writes grammar rules for calls, in llguidance's Lark dialect. Knows no family."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from neuron_lib.text.formats.tool_format import Tools

__all__ = ("RuleWriter", "functions_of", "json_object_rules", "write_calls")

_JSON_STYLE: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As in `llama/grammar.py`: if white space is free, a model may write nothing else."""


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
) -> None:
    """Add the rules `calls` and `call_any`, for calls between `begin` and `end`, with `between` between two of them.

    `call` makes the terms of one call from a function's name and the schema of its parameters.
    """
    several = f"call_any ({writer.text(between) if between else ''} call_any)*" if is_parallel else "call_any"
    around = [writer.text(begin)] if begin else []
    writer.rule("calls", " ".join((*around, several, *([writer.text(end)] if end else []))))
    names = [f"call_{index}" for index, _ in enumerate(functions_of(tools))]
    writer.rule("call_any", *names)
    for rule, (name, parameters) in zip(names, functions_of(tools), strict=True):
        writer.rule(rule, call(name, parameters))


def json_object_rules(
    *,
    begin: str,
    between: str,
    end: str,
    name_key: str = "name",
    arguments_key: str = "arguments",
    before: str = "",
    after: str = "",
) -> Callable[[RuleWriter, Tools, bool], None]:
    """Rules for calls that are JSON objects with a name and arguments.

    `begin` and `end` are around all calls and `between` between two of them, `before` and `after` are around each call.
    """

    def write(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `MarkedFormat`
        def call(name: str, parameters: Mapping[str, Any]) -> str:
            head = f'{before}{{"{name_key}": {json.dumps(name)}, "{arguments_key}": '
            return f"{writer.text(head)} {writer.json(parameters)} {writer.text('}' + after)}"

        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=between, end=end)

    return write
