"""Calls from a name and arguments that are read already, and the names of the functions that may be called. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from neuron_lib.text.formats.json_text import NOT_UNDERSTOOD
from neuron_lib.text.formats.literals import LiteralReader
from neuron_lib.text.formats.tool_format import ParsedCall, Tools

__all__ = ("as_call", "names_of", "parse_arguments")


def as_call(name: str, arguments: Mapping[str, Any]) -> ParsedCall | None:
    """The call with its arguments as JSON text. None if JSON cannot contain them, such as half a surrogate pair."""
    try:
        name.encode()
        return ParsedCall(name, msgspec.json.encode(arguments).decode())
    except NOT_UNDERSTOOD:
        return None


def parse_arguments(name: str, text: str) -> ParsedCall | None:
    """The call of function `name` with arguments that are the JSON or Python object `text`. None for anything else."""
    reader = LiteralReader(text)
    try:
        arguments = reader.value()
    except NOT_UNDERSTOOD:
        return None
    return as_call(name, arguments) if isinstance(arguments, dict) and reader.is_at_end else None


def names_of(tools: Tools) -> frozenset[str]:
    """The names of the functions among the tools."""
    functions = (tool.get("function") for tool in tools)
    names = (function.get("name") for function in functions if isinstance(function, Mapping))
    return frozenset(name for name in names if isinstance(name, str))
