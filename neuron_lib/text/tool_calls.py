"""Reads the body of one tool-call block, in either form models write. Knows nothing of streams and of markers.

A body that is not understood is no error: the caller shows it to the user as the model wrote it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from neuron_lib.text.tag_splitter import Markers

__all__ = ("TOOL_MARKERS", "ParsedCall", "parse_tool_call")

TOOL_MARKERS: Final = (Markers("<tool_call>", "</tool_call>"),)
"""In the order to try, like `REASONING_MARKERS`."""

_FUNCTION: Final = re.compile(r"<function=([^>\s]+)>\s*(.*)</function>", re.DOTALL)
_PARAMETER: Final = re.compile(r"<parameter=([^>\s]+)>(.*?)</parameter>\s*", re.DOTALL)

_PYTHON_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


class ParsedCall(NamedTuple):
    """What a block asks for; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class _JsonCall(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | str | None = None


_decode_json_call: Final = msgspec.json.Decoder(_JsonCall).decode
_decode_object: Final = msgspec.json.Decoder(dict[str, Any]).decode

# What msgspec raises on text that is not JSON of the wanted shape: its own errors and UnicodeError are ValueErrors.
_NOT_UNDERSTOOD: Final = (ValueError, RecursionError)


def parse_tool_call(body: str, tools: Sequence[Mapping[str, Any]]) -> ParsedCall | None:
    """Read a block's `body`; None if it is in neither form. `tools` are the request's, and give parameter types.

    The forms are `{"name", "arguments"}` as JSON, and `<function=NAME>` around `<parameter=KEY>VALUE</parameter>`
    (wire contract §1.8).
    """
    body = body.strip()
    if body.startswith("<"):
        return _parse_tagged(body, tools)
    try:
        call = _decode_json_call(body)
        arguments = call.arguments if call.arguments is not None else {}
        if isinstance(arguments, str):
            arguments = _decode_object(arguments)
    except _NOT_UNDERSTOOD:
        return None
    return _call(call.name, arguments)


def _parse_tagged(body: str, tools: Sequence[Mapping[str, Any]]) -> ParsedCall | None:
    function = _FUNCTION.fullmatch(body)
    if function is None:
        return None
    name, parameters = function.groups()
    schemas = _parameter_schemas(name, tools)
    arguments: dict[str, Any] = {}
    position = 0
    while position < len(parameters):
        # Anchored matches keep this linear: a search would rescan the rest for every unclosed parameter.
        parameter = _PARAMETER.match(parameters, position)
        if parameter is None:
            return None
        key, value = parameter.groups()
        arguments[key] = _coerce(_without_frame(value), list(_declared_types(schemas.get(key))))
        position = parameter.end()
    return _call(name, arguments)


def _call(name: str, arguments: dict[str, Any]) -> ParsedCall | None:
    return ParsedCall(name, msgspec.json.encode(arguments).decode()) if name else None


def _without_frame(value: str) -> str:
    """Models set a value on lines of its own: one line break at either end belongs to the tags."""
    return value.removeprefix("\n").removesuffix("\n")


def _parameter_schemas(name: str, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The declared parameters of function `name`; empty if the request declares none, or nothing sensible."""
    for tool in tools:
        function = _mapping(tool.get("function"))
        if function.get("name") == name:
            return _mapping(_mapping(function.get("parameters")).get("properties"))
    return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _declared_types(schema: object) -> Iterable[str]:
    """The type names of a JSON schema, those of its alternatives included."""
    schema = _mapping(schema)
    declared = schema.get("type")
    yield from (name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str))
    for keyword in ("anyOf", "oneOf"):
        alternatives = schema.get(keyword)
        for alternative in alternatives if isinstance(alternatives, list) else ():
            yield from _declared_types(alternative)


def _coerce(text: str, types: Sequence[str]) -> Any:
    """The value `text` stands for: of one of `types` if it can be, else the text itself; any JSON if there are none."""
    if not types:
        return _json_or_text(text)
    for name in types:
        # Models trained on Python write True where JSON has true.
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
