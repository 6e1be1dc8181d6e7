"""The description of the service in OpenAPI 3.2, made of its operations and of the types of their bodies. Pure.

The types are those that msgspec decodes and encodes, so the description cannot differ from the code. A body that the
types alone do not describe is described by the types that its fields are read as (`neuron_lib.wire.bodies.read_as`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType
from msgspec.structs import fields

from neuron_service.dialects import ERROR_SHAPE

__all__ = ("Operation", "described_by", "document", "operations_of")

_JSON: Final = "application/json"
_STREAM: Final = "text/event-stream"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_KEYS: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""The ways to send an API key (`neuron_service.access.entrance`)."""
_NULL: Final = msgspec.Raw(b"null")
_REFERENCE: Final = "#/components/schemas/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    `path` has its parameters in braces. `query` has the parameters of the query, each with what it means; none is
    needed. `request` is the type of the body, None if there is none. `answers` has the type of the JSON body for each
    status of a request that is not refused, None where an answer has none. `event` is the type of the data of each
    event, where the answer may be a stream. `last_data` is the text of the last event, if that is not JSON. `errors`
    are the types that the body of a refusal may have.
    """

    method: Literal["get", "post"]
    path: str
    summary: str
    query: Mapping[str, str] = field(default_factory=dict)
    request: Any = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    event: Any = None
    last_data: str | None = None
    errors: tuple[Any, ...] = (ERROR_SHAPE,)


_OPT: Final = "operations"


def described_by(*operations: Operation, later: Callable[[], Iterable[Operation]] = tuple) -> dict[str, Any]:
    """The `opt` of a route that answers these operations. `later` names further ones when they are asked for."""
    return {_OPT: lambda: (*operations, *later())}


def operations_of(opt: Mapping[str, Any]) -> Iterable[Operation]:
    """The operations of a route with this `opt`. Raises `KeyError` if it was not made by `described_by`."""
    operations: Iterable[Operation] = opt[_OPT]()
    return operations


def document(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """The whole description, ready to be encoded as JSON. Takes some tens of milliseconds of processor time.

    Raises `ValueError` if two operations have the same method and path.
    """
    types = _Types()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        methods = paths.setdefault(operation.path, {})
        if operation.method in methods:
            msg = f"{operation.method} {operation.path} is there twice"
            raise ValueError(msg)
        methods[operation.method] = _operation(operation, types)
    return {
        "openapi": "3.2.0",  # the first version that can describe a stream
        "info": {"title": "neuron", "version": version, "summary": "Serves language models on one host."},
        "paths": paths,
        "security": [{}, *({name: []} for name in _KEYS)],  # none is needed from a trusted network
        "components": {"schemas": types.components(), "securitySchemes": _KEYS},
    }


def _operation(operation: Operation, types: "_Types") -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _identifier(operation),
        "summary": operation.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(operation.path)
        ]
        + [
            {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
            for name, meaning in operation.query.items()
        ],
        "responses": {
            **{str(status): _answer(operation, body, types) for status, body in operation.answers.items()},
            **{f"{kind}XX": _content(types.any_of(operation.errors), says="refused") for kind in (4, 5)},
        },
    }
    if operation.request is not None:
        body = {_JSON: {"schema": types.reference(operation.request)}}
        described["requestBody"] = {"required": True, "content": body}
    return described


def _answer(operation: Operation, body: Any, types: "_Types") -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "answered"}
    if body is not None:
        answer = _content(types.reference(body), says="answered")
    if operation.event is not None:
        answer["content"] = answer.get("content", {}) | {_STREAM: {"itemSchema": _event(operation, types)}}
    return answer


def _event(operation: Operation, types: "_Types") -> dict[str, Any]:
    """The schema of a server-sent event. A stream that breaks off ends with an error as its data."""
    content = types.any_of([operation.event, *operation.errors])
    data: dict[str, Any] = {"type": "string", "contentMediaType": _JSON, "contentSchema": content}
    if operation.last_data is not None:
        data = {"anyOf": [{"const": operation.last_data}, data]}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


def _content(schema: dict[str, Any], *, says: str) -> dict[str, Any]:
    return {"description": says, "content": {_JSON: {"schema": schema}}}


def _identifier(operation: Operation) -> str:
    """`post_v1_chat_completions`."""
    return "_".join([operation.method, *re.findall(r"\w+", operation.path)])


class _Types:
    """The types of all bodies, and their schemas. A type is referred to first, and all schemas are made at the end."""

    def __init__(self) -> None:
        self._shown: dict[type[Struct], type[Struct]] = {}
        self._names: set[str] = set()
        self._referred: list[tuple[Any, dict[str, Any]]] = []

    def any_of(self, annotations: Iterable[Any]) -> dict[str, Any]:
        """The schema of a body that has one of several types."""
        references = [self.reference(each) for each in annotations]
        return references[0] if len(references) == 1 else {"anyOf": references}

    def reference(self, annotation: Any) -> dict[str, Any]:
        """A schema that is empty until `components` has been called."""
        schema: dict[str, Any] = {}
        self._referred.append((self._show(annotation), schema))
        return schema

    def components(self) -> dict[str, Any]:
        """The schemas of all structs that have been referred to, by name."""
        found, components = msgspec.json.schema_components(
            [annotation for annotation, _ in self._referred], ref_template=f"{_REFERENCE}{{name}}"
        )
        for (_, schema), full in zip(self._referred, found, strict=True):
            schema.update(full)
        return components

    def _show(self, annotation: Any) -> Any:
        """The same type with every field that stays text shown as what reads it, and with public names."""
        if annotation in {msgspec.Raw, object}:
            return Any
        if isinstance(annotation, type) and issubclass(annotation, Struct):
            return self._show_struct(annotation)
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self._show_annotated(*inner)
        if origin in {Union, UnionType}:
            return Union[tuple(map(self._show, inner))]  # noqa: UP007 - the members are known at run time only
        if origin in {None, Literal}:
            return annotation
        return origin[tuple(each if each is ... else self._show(each) for each in inner)]

    def _show_annotated(self, base: Any, *metas: Any) -> Any:
        if base is not msgspec.Raw:
            return Annotated[(self._show(base), *metas)]
        read = [meta.extra["read_as"] for meta in metas if isinstance(meta, Meta) and meta.extra]
        return self._show(read[0]) if read else Any

    def _show_struct(self, struct: type[Struct]) -> Any:
        if not struct.__struct_fields__ and struct.__struct_config__.tag is None:
            return dict[str, Any]  # an object whose keys are not looked at
        if struct not in self._shown:
            tag_field, tag = _tag_of(struct)
            self._shown[struct] = msgspec.defstruct(
                self._name(struct),
                [(field.name, *self._show_field(field)) for field in fields(struct) if field.name != tag_field],
                namespace={"__doc__": struct.__doc__},
                kw_only=True,
                tag=tag,
                tag_field=tag_field,
                array_like=struct.__struct_config__.array_like,
            )
        return self._shown[struct]

    def _name(self, struct: type[Struct]) -> str:
        """A name that no other struct has. A private struct, or one whose name is taken, is named by its module too."""
        name = struct.__name__
        if name.startswith("_") or name in self._names:
            words = re.findall(r"[a-z0-9]+", struct.__module__.rpartition(".")[2])
            name = "".join(map(str.capitalize, words)) + name.lstrip("_")
        self._names.add(name)
        return name

    def _show_field(self, field: msgspec.structs.FieldInfo) -> tuple[Any, Any]:
        annotation = self._show(field.type)
        if field.default_factory is not NODEFAULT:
            return annotation, msgspec.field(name=field.encode_name, default_factory=field.default_factory)
        if field.default == _NULL:
            or_null = Any if annotation is Any else Union[annotation, None]  # noqa: UP007 - as above
            return or_null, msgspec.field(name=field.encode_name, default=None)
        if isinstance(field.default, Struct | msgspec.Raw):  # no JSON yet, so the default is not shown
            return annotation, msgspec.field(name=field.encode_name, default_factory=lambda: field.default)
        may_be_left_out = field.default is NODEFAULT and UnsetType in get_args(annotation)
        return annotation, msgspec.field(name=field.encode_name, default=UNSET if may_be_left_out else field.default)


def _tag_of(struct: type[Struct]) -> tuple[str | None, Any]:
    """The field that tells a struct from others, and its value there. A field `type` with one value is such a field."""
    config = struct.__struct_config__
    kind = next((field for field in fields(struct) if field.name == "type"), None)
    if config.tag is None and kind is not None and get_origin(kind.type) is Literal and len(get_args(kind.type)) == 1:
        return "type", get_args(kind.type)[0]
    return config.tag_field, config.tag
