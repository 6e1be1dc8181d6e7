"""Values of arguments: what the text of a value stands for under the schema that the request's tools declare. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from neuron_lib.text.formats.literals import LiteralReader
from neuron_lib.text.formats.tool_format import ParsedCall, Tools

__all__ = (
    "NOT_UNDERSTOOD",
    "as_call",
    "coerce",
    "declared_types",
    "names_of",
    "parameter_schemas",
    "parse_arguments",
    "without_frame",
)

# The errors for text that is not JSON of the wanted shape (UnicodeError included), or that contains what JSON cannot.
NOT_UNDERSTOOD: Final = (ValueError, RecursionError)

_PYTHON_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}


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
    names = (_mapping(tool.get("function")).get("name") for tool in tools)
    return frozenset(name for name in names if isinstance(name, str))


def without_frame(value: str) -> str:
    """`value` without one line break at each end. Models put a value on lines of its own."""
    return value.removeprefix("\n").removesuffix("\n")


def parameter_schemas(name: str, tools: Tools) -> Mapping[str, Any]:
    """The declared parameters of function `name`. Empty if the request declares none, or no usable ones."""
    for tool in tools:
        function = _mapping(tool.get("function"))
        if function.get("name") == name:
            return _mapping(_mapping(function.get("parameters")).get("properties"))
    return {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def declared_types(schema: object) -> Iterable[str]:
    """The type names of a JSON schema, including those of its alternatives."""
    schema = _mapping(schema)
    declared = schema.get("type")
    yield from (name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str))
    for keyword in ("anyOf", "oneOf"):
        alternatives = schema.get(keyword)
        for alternative in alternatives if isinstance(alternatives, list) else ():
            yield from declared_types(alternative)


def coerce(text: str, types: Sequence[str]) -> Any:
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
    except NOT_UNDERSTOOD:
        return text
