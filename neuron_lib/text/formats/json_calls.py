"""Parses the body of one tool-call block, in the forms that models write. Knows nothing of streams and of markers.

A body that is not understood is no error: the caller shows it as text. No guess becomes a call. If a body names a
function and also has a part that is not understood, it is not a call.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec

from neuron_lib.text.formats.tool_format import ParsedCall

__all__ = ("ends_inside_value", "parse_tool_calls")

_FUNCTION: Final = re.compile(r"<function=([^>\s]+)>\s*(.*)</function>", re.DOTALL)
_BETWEEN_FUNCTIONS: Final = re.compile(r"(?<=</function>)\s*(?=<function=)")
_PARAMETER: Final = re.compile(r"<parameter=([^>\s]+)>(.*?)</parameter>\s*", re.DOTALL)
_OPEN_PARAMETER: Final = re.compile(r"<parameter=([^>\s]+)>(.*?)(?:</parameter>\s*|(?=<parameter=)|\Z)", re.DOTALL)
"""A parameter whose end may be missing."""

_LANGUAGE: Final = re.compile(r"^\w*")
_SEPARATOR: Final = re.compile(r"(?:[\s,;]|</?tool_call>)*")
"""What models write between two calls of one block if they do not begin a new block."""
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_PYTHON_WORD: Final = re.compile(r"""'((?:[^'\\]|\\.)*)'|"(?:[^"\\]|\\.)*"|\b(?:True|False|None)\b""", re.DOTALL)
_PYTHON_QUOTE: Final = re.compile(r"""\\(.)|\"""", re.DOTALL)
_JSON_WORDS: Final[Mapping[str, str]] = {"True": "true", "False": "false", "None": "null"}

_ARGUMENTS: Final = ("arguments", "parameters", "args")
"""The names that models use for the arguments. Models are trained on the first."""
_COMPANIONS: Final = frozenset({"name", "function", "type", "id", "index"})
"""Keys of a call that are not arguments."""

_PYTHON_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


# The errors for text that is not JSON of the wanted shape (UnicodeError included), or that contains what JSON cannot.
_NOT_UNDERSTOOD: Final = (ValueError, RecursionError)


def parse_tool_calls(body: str, tools: Sequence[Mapping[str, Any]]) -> tuple[ParsedCall, ...]:
    """The calls of a block. Empty if any part of its `body` is not understood. `tools` are those of the request.

    Two forms are understood. The first is JSON objects with `name` and `arguments`, one or several, also in a list. The
    second is `<function=NAME>` around `<parameter=KEY>VALUE</parameter>`; such values get the types that the tools
    declare.
    """
    body = body.strip()
    if body.startswith("```") and body.endswith("```"):
        body = _LANGUAGE.sub("", body[3:-3], count=1).strip()
    if body.startswith("<function="):
        return _tagged_calls(body, tools)
    for text in (body, _with_json_words(body)):
        try:
            calls = [_json_call(value) for value in _flat(_json_values(text))]
            return tuple(ParsedCall(name, msgspec.json.encode(arguments).decode()) for name, arguments in calls)
        except _NOT_UNDERSTOOD:
            continue
    return ()


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
        value, position = _decoder.raw_decode(text, position)
        yield value
        position = _after(_SEPARATOR, text, position)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return position if match is None else match.end()


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values. A list is replaced by its items."""
    for value in values:
        yield from value if isinstance(value, list) else (value,)


def _json_call(value: Any) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a call. Raises `ValueError` for any other value."""
    match value:
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


def _as_arguments(value: Any) -> dict[str, Any]:
    """Arguments as an object, also if they are JSON text. Raises `ValueError` if they are neither."""
    if isinstance(value, str):
        text = value.strip()
        value = _decoder.decode(text) if text else None
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise ValueError("no object")


def _is_schema(arguments: Mapping[str, Any]) -> bool:
    """Whether this looks like a declaration of parameters. Models repeat such declarations at times."""
    return arguments.get("type") == "object" and isinstance(arguments.get("properties"), dict)


def _with_json_words(text: str) -> str:
    """`text` with Python's strings and constants written as in JSON."""

    def quoted(mark: re.Match[str]) -> str:
        if mark[1] is None:
            return '\\"'
        return "'" if mark[1] == "'" else mark[0]

    def as_json(word: re.Match[str]) -> str:
        if word[1] is None:
            return _JSON_WORDS.get(word[0], word[0])
        return f'"{_PYTHON_QUOTE.sub(quoted, word[1])}"'

    return _PYTHON_WORD.sub(as_json, text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


_decoder: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, strict=False)


def _tagged_calls(body: str, tools: Sequence[Mapping[str, Any]]) -> tuple[ParsedCall, ...]:
    for bodies in ([body], _BETWEEN_FUNCTIONS.split(body)):
        calls = [_tagged_call(each, tools, _PARAMETER) for each in bodies]
        understood = tuple(call for call in calls if call is not None)
        if len(understood) == len(calls):
            return understood
    if body.count("<function=") > 1 or body.count("</function>") > 1:
        return ()
    call = _tagged_call(body, tools, _OPEN_PARAMETER)
    return () if call is None else (call,)


def _tagged_call(
    body: str, tools: Sequence[Mapping[str, Any]], parameter_pattern: re.Pattern[str]
) -> ParsedCall | None:
    function = _FUNCTION.fullmatch(body.strip())
    if function is None:
        return None
    name, parameters = function.groups()
    schemas = _parameter_schemas(name, tools)
    arguments: dict[str, Any] = {}
    position = 0
    while position < len(parameters):
        # Anchored matches keep the time linear. A search would read the rest again for every parameter that is not
        # closed.
        parameter = parameter_pattern.match(parameters, position)
        if parameter is None:
            return None
        key, value = parameter.groups()
        arguments[key] = _coerce(_without_frame(value), list(_declared_types(schemas.get(key))))
        position = parameter.end()
    try:
        return ParsedCall(name, msgspec.json.encode(arguments).decode())
    except _NOT_UNDERSTOOD:  # half a surrogate pair
        return None


def _without_frame(value: str) -> str:
    """`value` without one line break at each end. Models put a value on lines of its own."""
    return value.removeprefix("\n").removesuffix("\n")


def _parameter_schemas(name: str, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The declared parameters of function `name`. Empty if the request declares none, or no usable ones."""
    for tool in tools:
        function = _mapping(tool.get("function"))
        if function.get("name") == name:
            return _mapping(_mapping(function.get("parameters")).get("properties"))
    return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _declared_types(schema: object) -> Iterable[str]:
    """The type names of a JSON schema, including those of its alternatives."""
    schema = _mapping(schema)
    declared = schema.get("type")
    yield from (name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str))
    for keyword in ("anyOf", "oneOf"):
        alternatives = schema.get(keyword)
        for alternative in alternatives if isinstance(alternatives, list) else ():
            yield from _declared_types(alternative)


def _coerce(text: str, types: Sequence[str]) -> Any:
    """The value that `text` stands for. Of one of `types` if possible, otherwise the text itself. Without types any
    JSON.
    """
    if not types:
        return _json_or_text(text)
    for name in types:
        # Models that were trained on Python write True where JSON has true.
        value = _json_or_text(text.strip().lower() if name in {"boolean", "null"} else text)
        wanted = _PYTHON_TYPES.get(name, ())
        if isinstance(value, wanted) and (name == "boolean" or not isinstance(value, bool)):
            return value
    return text


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except _NOT_UNDERSTOOD:
        return text
