"""Parses calls written as in Python: `[f(a=1, b="x"), g()]`. Knows nothing of streams and of markers."""

from collections.abc import Sequence
from typing import Any

from neuron_lib.text.formats.arguments import as_call
from neuron_lib.text.formats.json_text import NOT_UNDERSTOOD
from neuron_lib.text.formats.literals import LiteralReader, ValueScanner
from neuron_lib.text.formats.tool_format import ParsedCall, Tools

__all__ = ("ends_inside_string", "parse_python_calls")


def parse_python_calls(body: str, tools: Tools) -> Sequence[ParsedCall]:  # noqa: ARG001 - a `Parser`
    """The calls of a list, or of several lines with one call each. Empty if any part of `body` is not understood.

    All arguments must have names: without them it would be a guess which is which.
    """
    reader = LiteralReader(body)
    try:
        calls = _calls(reader)
    except NOT_UNDERSTOOD:
        return ()
    return calls if reader.is_at_end else ()


def ends_inside_string(body: str) -> bool:
    """Whether `body`, the beginning of a list of calls, ends inside a string."""
    scanner = ValueScanner()
    scanner.feed("(" + body)
    return scanner.is_in_string


def _calls(reader: LiteralReader) -> Sequence[ParsedCall]:
    calls: list[ParsedCall] = []
    if reader.takes("["):
        while not reader.takes("]"):
            if calls:
                reader.expect(",")
            calls.append(_call(reader))
        return calls
    while not reader.is_at_end:
        calls.append(_call(reader))
        for separator in ",;":
            reader.takes(separator)
    return calls


def _call(reader: LiteralReader) -> ParsedCall:
    name = reader.word()
    reader.expect("(")
    arguments: dict[str, Any] = {}
    while not reader.takes(")"):
        if arguments:
            reader.expect(",")
            if reader.takes(")"):
                break
        key = reader.word()
        reader.expect("=")
        if key in arguments:
            raise ValueError(f"{key} twice")
        arguments[key] = reader.value()
    call = as_call(name, arguments)
    if call is None:
        raise ValueError("the arguments are no JSON")
    return call
