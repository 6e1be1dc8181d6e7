"""Parses the body of one tool-call block, in the forms that models write. Knows nothing of streams and of markers.

A body that is not understood is no error: the caller shows it as text. No guess becomes a call. If a body names a
function and also has a part that is not understood, it is not a call.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from neuron_lib.text.formats.blocks import PairBlock
from neuron_lib.text.formats.json_text import DECODER, NOT_UNDERSTOOD, with_json_words
from neuron_lib.text.formats.tagged_calls import parse_tagged_calls
from neuron_lib.text.formats.tool_format import ParsedCall, Tools

__all__ = ("ends_inside_value", "json_pair", "parse_keyed_calls", "parse_tool_calls")

_LANGUAGE: Final = re.compile(r"^\w*")
_SEPARATOR: Final = re.compile(r"(?:[\s,;]|</?tool_call>)*")
"""What models write between two calls of one block if they do not begin a new block."""
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)

_ARGUMENTS: Final = ("arguments", "parameters", "args")
"""The names that models use for the arguments. Models are trained on the first."""
_NAMES: Final = ("name", "tool_name")
_COMPANIONS: Final = frozenset({*_NAMES, "function", "type", "id", "index", "call_id", "tool_call_id"})
"""Keys of a call that are not arguments."""
_WRAPPERS: Final = ("tool_calls", "tool_call")


def parse_tool_calls(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a block. Empty if any part of its `body` is not understood. `tools` are those of the request.

    Two forms are understood. The first is JSON objects with `name` and `arguments`, one or several, also in a list. The
    second is `<function=NAME>` around `<parameter=KEY>VALUE</parameter>`; such values get the types that the tools
    declare.
    """
    body = body.strip()
    if body.startswith("```") and body.endswith("```"):
        body = _LANGUAGE.sub("", body[3:-3], count=1).strip()
    if body.startswith("<function="):
        return parse_tagged_calls(body, tools)
    for text in (body, with_json_words(body)):
        try:
            calls = [_json_call(value) for value in _flat(_json_values(text))]
            return tuple(ParsedCall(name, msgspec.json.encode(arguments).decode()) for name, arguments in calls)
        except NOT_UNDERSTOOD:
            continue
    return ()


def parse_keyed_calls(body: str, _tools: Tools) -> tuple[ParsedCall, ...]:
    """The calls of a block of objects with one member: the function's name, and its arguments."""
    try:
        calls = [_keyed_call(value) for value in _flat(_json_values(body.strip()))]
        return tuple(ParsedCall(name, msgspec.json.encode(arguments).decode()) for name, arguments in calls)
    except NOT_UNDERSTOOD:
        return ()


def json_pair(*opens: str, closes: tuple[str, ...]) -> PairBlock:
    """A block with such calls between two markers."""
    return PairBlock(opens=opens, closes=closes, parse=parse_tool_calls, ends_inside=ends_inside_value)


def ends_inside_value(body: str) -> bool:
    """Whether `body`, the beginning of a block, ends inside a string or a parameter. A marker there is part of that
    value.
    """
    body = body.lstrip()
    if body.startswith("<function="):
        is_open = body.rfind("<parameter=") > body.rfind("</parameter>")
        return is_open and not body.rstrip().endswith("</function>")
    return body.startswith(("{", "[", "```")) and '"' in _STRING.sub("", body)


def _json_values(text: str) -> Iterator[Any]:
    """The JSON values of a text, one after the other."""
    position = _after(_SEPARATOR, text, 0)
    while position < len(text):
        value, position = DECODER.raw_decode(text, position)
        yield value
        position = _after(_SEPARATOR, text, position)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values. A list is replaced by its items, and an object that only holds calls by those."""
    for value in values:
        inner = value
        if isinstance(value, dict) and len(value) == 1:
            inner = next((value[key] for key in _WRAPPERS if key in value), value)
        yield from inner if isinstance(inner, list) else (inner,)


def _json_call(value: Any) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a call. Raises `ValueError` for any other value."""
    match value:
        case {"tool_name": name} if "name" not in value:
            value = {**value, "name": name}
        case {"function": dict(function)} if "name" in function:
            value = {**{key: item for key, item in value.items() if key != "name"}, **function}
        case {"function": str(name)} if "name" not in value:
            value = {**value, "name": name}
        case dict():
            pass
        case _:
            raise ValueError("no object")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("no name")
    name.encode()  # raises for half a surrogate pair, which a reply cannot contain
    given = {key: _as_arguments(value[key]) for key in _ARGUMENTS if key in value}
    other = value.keys() - _COMPANIONS - given.keys()
    said = {key: arguments for key, arguments in given.items() if arguments} or given
    if len(said) > 1 and any(arguments != {} for arguments in said.values()):
        raise ValueError("arguments twice")
    key, arguments = next(iter(said.items()), ("", {}))
    if key != "arguments" and (other or _is_schema(arguments)):
        raise ValueError("perhaps no arguments")
    if not arguments and any(isinstance(value[key], dict | list) for key in other):
        raise ValueError("perhaps arguments under another name")
    return name, arguments


def _keyed_call(value: Any) -> tuple[str, dict[str, Any]]:
    match value:
        case {"name": _, "arguments": _}:
            return _json_call(value)
        case dict() if len(value) == 1:
            name, arguments = next(iter(value.items()))
            name.encode()
            return name, _as_arguments(arguments)
        case _:
            raise ValueError("no call")


def _as_arguments(value: Any) -> dict[str, Any]:
    """Arguments as an object, also if they are JSON text. Raises `ValueError` if they are neither."""
    if isinstance(value, str):
        text = value.strip()
        value = DECODER.decode(text) if text else None
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise ValueError("no object")


def _is_schema(arguments: Mapping[str, Any]) -> bool:
    """Whether this looks like a declaration of parameters. Models repeat such declarations at times."""
    return arguments.get("type") == "object" and isinstance(arguments.get("properties"), dict)
