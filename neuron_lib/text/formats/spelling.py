"""Writes calls as a family does, for templates that do not show calls. Pure."""

import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

from neuron_lib.text.formats.tool_format import ParsedCall

__all__ = ("Speller", "json_speller", "named_speller", "python_speller")

Speller: TypeAlias = Callable[[Sequence[ParsedCall]], str]
"""The text of one or more calls."""


def json_speller(
    *,
    begin: str = "",
    before: str = "",
    after: str = "",
    between: str = "",
    end: str = "",
    arguments_key: str = "arguments",
) -> Speller:
    """Calls as JSON objects. The texts stand where those of `json_object_rules` do."""

    def one(call: ParsedCall) -> str:
        name = json.dumps(call.name, ensure_ascii=False)
        return f'{before}{{"name": {name}, "{arguments_key}": {call.arguments}}}{after}'

    return lambda calls: f"{begin}{between.join(map(one, calls))}{end}"


def named_speller(
    *, begin: str = "", before: str, behind_name: str, after: str = "", between: str = "", end: str = ""
) -> Speller:
    """Calls as a name in front of the arguments."""

    def one(call: ParsedCall) -> str:
        return f"{before}{call.name}{behind_name}{call.arguments}{after}"

    return lambda calls: f"{begin}{between.join(map(one, calls))}{end}"


def python_speller(*, begin: str, between: str, end: str) -> Speller:
    """Calls as in Python. Arguments that are no JSON object stand there as they are."""

    def one(call: ParsedCall) -> str:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            return f"{call.name}({call.arguments})"
        return f"{call.name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"

    return lambda calls: f"{begin}{between.join(map(one, calls))}{end}"
