"""Values of arguments that a model has written as plain text: which JSON value a text stands for, by the schema of its
parameter. Pure.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from neuron_lib.text.formats.json_text import DECODER, NOT_UNDERSTOOD, with_json_words

__all__ = ("Parameters", "Schema", "as_json", "json_value", "parameters_of", "typed_value", "without_frame")

_MOST_REFERENCES: Final = 16
"""How many `$ref` are followed, one after the other. A schema may refer to itself."""

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
    "null": type(None),
}
_NAMES: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}
_ALIASES: Final[Mapping[str, str]] = {
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "dict": "object",
    "map": "object",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "str": "string",
    "text": "string",
    "none": "null",
}
"""Names of types that are no JSON Schema, but that tools are declared with."""
_NESTED: Final = ("object", "array")
_ALTERNATIVES: Final = ("anyOf", "oneOf", "allOf")
_DEFINITIONS: Final = ("$defs", "definitions")
_MOST_ALTERNATIVES: Final = 64


class Parameters:
    """The declared parameters of one function. Immutable.

    `is_declared` says whether the request declares the function. A function that is not declared has no parameters.
    `schema` is that of all arguments as one object, `names` are the names in it.
    """

    __slots__ = ("is_declared", "names", "schema")

    def __init__(self, schema: object, *, is_declared: bool) -> None:
        self.is_declared: Final = is_declared
        self.schema: Final = Schema(schema, _mapping(schema))
        self.names: Final[frozenset[str]] = frozenset(_mapping(self.schema.node.get("properties")))

    def value(self, name: str, text: str) -> Any:
        """The value that `text` stands for, as parameter `name`."""
        return typed_value(text, self.schema.property(name))


class Schema:
    """A JSON schema inside another one, `root`, which has the definitions. Immutable."""

    __slots__ = ("_root", "node")

    def __init__(self, node: object, root: Mapping[str, Any]) -> None:
        self._root: Final = root
        self.node: Final = _resolved(node, root)

    def types(self) -> list[str]:
        """The names of the types that are allowed, in order, alternatives included. Empty if all are."""
        return list(dict.fromkeys(name for node in _alternatives(self.node, self._root) for name in _types(node)))

    def listed(self) -> list[Any]:
        """The values that are listed as the only ones. Empty if none are."""
        return _listed(self.node)

    def alone(self) -> dict[str, Any]:
        """The schema by itself, with the definitions that it may refer to."""
        definitions = {key: self._root[key] for key in _DEFINITIONS if key in self._root}
        names = _types(self.node)
        return {**definitions, **self.node, **({"type": names} if "type" in self.node and names else {})}

    def property(self, name: str) -> "Schema":
        """The schema of a member of an object, also if only one of the alternatives is an object."""
        for node in self._nodes("object", "properties"):
            declared = _mapping(node.get("properties")).get(name, node.get("additionalProperties"))
            if isinstance(declared, Mapping):
                return Schema(declared, self._root)
        return Schema({}, self._root)

    def item(self) -> "Schema":
        """The schema of the items of a list, also if only one of the alternatives is a list."""
        for node in self._nodes("array", "items"):
            if isinstance(node.get("items"), Mapping):
                return Schema(node["items"], self._root)
        return Schema({}, self._root)

    def _nodes(self, kind: str, keyword: str) -> Iterator[Mapping[str, Any]]:
        """The schema, or its alternatives, that allow `kind` or have `keyword`."""
        return (node for node in _alternatives(self.node, self._root) if keyword in node or node.get("type") == kind)


def parameters_of(name: str, tools: Sequence[Mapping[str, Any]]) -> Parameters:
    """The declared parameters of function `name`, from the tools of the request."""
    for tool in tools:
        function = _mapping(tool.get("function"))
        if function.get("name") == name:
            return Parameters(function.get("parameters"), is_declared=True)
    return Parameters({}, is_declared=False)


def typed_value(text: str, schema: Schema) -> Any:
    """The value that `text` stands for. Of one of the types of `schema` if possible, otherwise the text itself.

    If the schema allows all types, any JSON is a value, and other text stays text.
    """
    if text in schema.listed():
        return text
    types = schema.types()
    if not types:
        return json_value(text)
    for name in types:
        value = _as_type(text, name)
        if _is_of(value, name):
            return value
    return text


def json_value(text: str) -> Any:
    """The JSON value of `text`, or `text` itself if it is no JSON."""
    try:
        return DECODER.decode(text.strip())
    except NOT_UNDERSTOOD:
        return text


def as_json(value: Any) -> str:
    """`value` as JSON text. Raises `ValueError` if the value contains half a surrogate pair."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text.encode()
    return text


def without_frame(value: str) -> str:
    """`value` without one line break at each end. Some models put a value on lines of its own."""
    return value.removeprefix("\n").removesuffix("\n")


def _as_type(text: str, name: str) -> Any:
    """The value of `text` if it is to be of type `name`."""
    if name in {"boolean", "null"}:  # models that were trained on Python write True where JSON has true
        return json_value(text.strip().lower())
    value = json_value(text)
    if name in _NESTED and not _is_of(value, name):
        value = json_value(with_json_words(text))
    if name == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_of(value: Any, name: str) -> bool:
    return isinstance(value, _TYPES.get(name, ())) and (name == "boolean" or not isinstance(value, bool))


def _resolved(node: object, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """`node`, or the definition in `root` that it refers to. Empty if there is none."""
    found = _mapping(node)
    for _ in range(_MOST_REFERENCES):
        reference = found.get("$ref")
        if not isinstance(reference, str):
            return found
        found = _referred(reference, root)
    return {}


def _referred(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    if not reference.startswith("#"):
        return {}
    found: Any = root
    for key in reference[1:].split("/")[1:]:
        found = _mapping(found).get(key.replace("~1", "/").replace("~0", "~"))
    return _mapping(found)


def _alternatives(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The schema and the alternatives in it, nearest first. Not more than `_MOST_ALTERNATIVES`, because a schema may
    contain itself.
    """
    pending = deque([node])
    for _ in range(_MOST_ALTERNATIVES):
        if not pending:
            return
        node = pending.popleft()
        yield node
        for keyword in _ALTERNATIVES:
            inner = _list(node.get(keyword))[: _MOST_ALTERNATIVES - len(pending)]
            pending += (_resolved(each, root) for each in inner)


def _types(node: Mapping[str, Any]) -> list[str]:
    """The types that one schema names, without its alternatives."""
    declared = node.get("type")
    names = [name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str)]
    if names or any(keyword in node for keyword in _ALTERNATIVES):
        return [_ALIASES.get(name.lower(), name.lower()) for name in names]
    listed = [_NAMES[type(value)] for value in _listed(node) if type(value) in _NAMES]
    return listed or [kind for kind, keyword in (("object", "properties"), ("array", "items")) if keyword in node]


def _listed(node: Mapping[str, Any]) -> list[Any]:
    """The values that the schema lists."""
    return [node["const"]] if "const" in node else _list(node.get("enum"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
