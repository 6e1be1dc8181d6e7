"""The HTTP reference: every operation and every body, from the description that the service makes of itself."""

import json
from collections.abc import Iterator
from typing import Any, Final

from neuron_docs.markdown import plain, prose, table
from neuron_lib import __version__
from neuron_service.app import operations
from neuron_service.openapi import document

__all__ = ("bodies", "described", "paths")

_KINDS: Final = {"integer": "whole number", "string": "text", "boolean": "`true` or `false`", "null": "`null`"}


def described() -> dict[str, Any]:
    """The description in OpenAPI 3.2, as `GET /openapi.json` answers, without that path itself."""
    return document(operations(), version=__version__)


def paths() -> str:
    """A section for each operation. Paths with the same operation share a section."""
    merged: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, methods in described()["paths"].items():
        for method, operation in methods.items():
            same = f"{method} {operation['summary']} {_body_of(operation)}"
            merged.setdefault(same, []).append((method.upper(), path, operation))
    return "\n\n".join(_section(group) for group in merged.values())


def bodies() -> str:
    """A section for each shape that a body or a part of a body has."""
    schemas: dict[str, Any] = described()["components"]["schemas"]
    return "\n\n".join(_shape(name, schemas[name]) for name in sorted(schemas))


def _section(group: list[tuple[str, str, dict[str, Any]]]) -> str:
    (method, path, operation), *others = group
    lines = [f"## {method} {plain(path)}", plain(operation["summary"]) + "."]
    if others:
        lines.append("Also: " + ", ".join(f"`{method} {path}`" for method, path, _ in others))
    rows = []
    if request := _body_of(operation):
        rows.append(("body", request))
    answers: dict[str, list[str]] = {}
    for status, answer in operation["responses"].items():
        for content in _contents(answer):
            answers.setdefault(content, []).append(status)
    rows.extend((f"answer {', '.join(statuses)}", content) for content, statuses in answers.items())
    return "\n\n".join([*lines, table(("", ""), rows)])


def _body_of(operation: dict[str, Any]) -> str:
    return " or ".join(_contents(operation.get("requestBody", {})))


def _contents(of: dict[str, Any]) -> Iterator[str]:
    """What a request or an answer has as its body, once for each media type. Without any there is no body."""
    contents = of.get("content", {})
    if not contents and "description" in of:
        yield "no JSON"
    for media, content in contents.items():
        if "itemSchema" in content:
            data = content["itemSchema"]["properties"]["data"]
            yield f"events (`{media}`) with the data {_type(data)}"
        else:
            yield _type(content["schema"])


def _shape(name: str, schema: dict[str, Any]) -> str:
    lines = [f"(body-{name.lower()})=\n## {name}", prose(schema.get("description"))]
    properties: dict[str, Any] = schema.get("properties", {})
    required = set(schema.get("required", ()))
    if properties:
        rows = [
            (f"`{key}`", _type(value), "must be there" if key in required else _default(value))
            for key, value in properties.items()
        ]
        lines.append(table(("key", "value", "if it is left out"), rows))
    else:
        lines.append(_type(schema))
    return "\n\n".join(filter(None, lines))


def _default(schema: dict[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if "default" in schema else "nothing is said"


def _type(schema: dict[str, Any]) -> str:
    """A schema in words. Shapes are links."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            return f"[{name}](#body-{name.lower()})"
        case {"contentSchema": inner}:
            return _type(inner)
        case {"anyOf": choices} | {"oneOf": choices}:
            return " or ".join(dict.fromkeys(map(_type, choices)))
        case {"type": "array"}:
            return f"list of ({_type(schema.get('items', {}))})"
        case {"type": "object", "additionalProperties": dict(inner)}:
            return f"object of ({_type(inner)})"
        case _:
            return _simple(schema)


def _simple(schema: dict[str, Any]) -> str:
    match schema:
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"type": str(kind)}:
            return _words(kind, schema)
        case _:
            return "any JSON"


def _words(kind: str, schema: dict[str, Any]) -> str:
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
            ("minLength", "of characters, at least"),
            ("maxLength", "of characters, at most"),
        )
        if key in schema
    ]
    return " ".join([_KINDS.get(kind, kind), *bounds])
