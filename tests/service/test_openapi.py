"""The description of the service says what the routes answer, no more and no less."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct, UnsetType

from neuron_lib.wire.bodies import NOTHING, read_as
from neuron_lib.wire.dialect import Dialect
from neuron_service.app import create_routes
from neuron_service.dialects import DIALECTS
from neuron_service.openapi import Operation, document, operations_of
from neuron_service.probes import PROBES
from tests.fakes.scripted_host import scripted_host

pytestmark = pytest.mark.anyio


async def described() -> dict[str, Any]:
    async with scripted_host() as host:
        reply = await host.client.get("/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    description: dict[str, Any] = reply.json()
    return description


def inner(value: object) -> Iterator[dict[str, Any]]:
    """All objects inside a JSON value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from inner(each)


async def test_every_path_and_method_that_is_answered_is_described_and_no_other() -> None:
    async with scripted_host() as host:
        routes = create_routes(host.real).routes
    answered = {
        (method.lower(), route.path)
        for route in routes
        for handler in getattr(route, "route_handlers", ())
        for method in handler.http_methods - {"OPTIONS", "HEAD"}
    }
    patterns = {
        (method, path): re.compile(re.sub(r"\\\{\w+:path\\\}", ".+", re.escape(path))) for method, path in answered
    }
    paths = (await described())["paths"]
    told = {(method, path) for path, methods in paths.items() for method in methods}
    probes = {("get", path) for path in PROBES}
    assert probes <= told
    for method, path in told - probes:
        assert [by for by, pattern in patterns.items() if by[0] == method and pattern.fullmatch(path)], path
    for by, pattern in patterns.items():
        assert [path for method, path in told if method == by[0] and pattern.fullmatch(path)], by


async def test_every_route_names_its_operations() -> None:
    async with scripted_host() as host:
        routes = create_routes(host.real).routes
    for route in routes:
        for handler in getattr(route, "route_handlers", ()):
            if handler.http_methods != {"OPTIONS"}:
                assert [*operations_of(handler.opt)], route.path


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
def test_every_dialect_names_the_types_of_its_bodies(dialect: Dialect) -> None:
    assert dialect.shapes is not None


async def test_every_reference_leads_to_a_component_and_every_component_is_referred_to() -> None:
    description = await described()
    referred = {each["$ref"].rpartition("/")[2] for each in inner(description) if "$ref" in each}
    assert referred == set(description["components"]["schemas"])


async def test_every_operation_says_what_a_refusal_looks_like() -> None:
    for path, methods in (await described())["paths"].items():
        for method, operation in methods.items():
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)
            assert operation["summary"]


async def test_the_body_of_a_chat_is_described_down_to_what_stays_text() -> None:
    description = await described()
    schemas = description["components"]["schemas"]
    body = schemas["ChatCompletionBody"]
    assert body["required"] == ["model", "messages"]
    messages = body["properties"]["messages"]
    assert (messages["type"], messages["minItems"]) == ("array", 1)
    message = schemas[messages["items"]["$ref"].rpartition("/")[2]]
    assert message["required"] == ["role"]
    assert json.dumps({"type": "boolean"}) in json.dumps(body["properties"]["json_schema"])
    chat = description["paths"]["/v1/chat/completions"]["post"]
    answers = chat["responses"]["200"]["content"]
    assert answers["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatCompletion"}
    last, others = answers["text/event-stream"]["itemSchema"]["properties"]["data"]["anyOf"]
    assert last == {"const": "[DONE]"}
    assert others["contentSchema"]["anyOf"] == [
        {"$ref": "#/components/schemas/ChatChunk"},
        {"$ref": "#/components/schemas/ErrorEnvelope"},
    ]


class _Inner(Struct):
    number: int


class _Body(Struct, kw_only=True):
    later: Annotated[msgspec.Raw, Meta(description="a list"), read_as(list[_Inner])] = NOTHING
    anything: msgspec.Raw = NOTHING
    needed: Annotated[msgspec.Raw, read_as(_Inner)]
    written_sometimes: int | UnsetType


def test_a_field_that_stays_text_is_shown_as_what_reads_it() -> None:
    operation = Operation(method="post", path="/x/{name}", summary="x", request=_Body, answers={200: None})
    schemas = document([operation], version="1")["components"]["schemas"]
    reference = {"$ref": "#/components/schemas/TestOpenapiInner"}
    body = schemas["TestOpenapiBody"]
    assert body["required"] == ["needed"]
    assert body["properties"]["needed"] == reference
    assert {"type": "array", "items": reference} in body["properties"]["later"]["anyOf"]
    assert body["properties"]["anything"] in ({}, {"default": None})


def test_two_structs_of_one_name_are_two_components() -> None:
    class Thing(Struct):
        one: int

    first = Thing

    class Thing(Struct):  # type: ignore[no-redef]  # the same name on purpose
        two: int

    operation = Operation(method="get", path="/x", summary="x", answers={200: first, 201: Thing})
    schemas = document([operation], version="1")["components"]["schemas"]
    assert {name: list(schema["properties"]) for name, schema in schemas.items()} == {
        "ErrorEnvelope": ["error"],
        "OpenaiErrorsError": ["message", "type", "code", "param"],
        "TestOpenapiThing": ["two"],
        "Thing": ["one"],
    }


def test_what_an_answer_may_leave_out_is_not_required() -> None:
    operation = Operation(method="get", path="/x", summary="x", answers={200: _Body})
    body = document([operation], version="1")["components"]["schemas"]["TestOpenapiBody"]
    assert body["properties"]["written_sometimes"] == {"type": "integer"}
    assert "written_sometimes" not in body["required"]


def test_a_parameter_of_a_path_is_named() -> None:
    operation = Operation(method="get", path="/x/{name}/y", summary="x", answers={200: None})
    (parameter,) = document([operation], version="1")["paths"]["/x/{name}/y"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("name", "path", True)


def test_an_operation_cannot_be_there_twice() -> None:
    operation = Operation(method="get", path="/x", summary="x", answers={200: None})
    with pytest.raises(ValueError, match="get /x is there twice"):
        document([operation, operation], version="1")
