"""Web pages of other origins: what a browser asks before a request, and what it lets a page read of the answer."""

import logging
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib import EngineDead
from neuron_lib.testing import ScriptedModel
from neuron_service.access.hosts import AccessRules
from neuron_service.app import create_app
from neuron_service.cors import CorsRules
from neuron_service.http_rules import HttpRules
from neuron_service.late_routes import LateRoutes
from tests.fakes.asgi_client import JSON, AsgiClient, Reply
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host

pytestmark = pytest.mark.anyio

A = "org/a"
CHAT = "/v1/chat/completions"
PAGE = "https://app.example"
OF_PAGE = {"host": "localhost", "origin": PAGE}
SDK_HEADERS = (
    "authorization,content-type,x-stainless-lang,x-stainless-retry-count,openai-organization,openai-beta,x-api-key,"
    "anthropic-version,anthropic-dangerous-direct-browser-access,x-title,http-referer"
)


def client_of(host: ScriptedHost, *cors_origins: str) -> AsgiClient:
    """A client of the whole application, with the access rules that `serve` makes for a loopback address."""
    access = AccessRules(takes_any_host=False, origins=frozenset(cors_origins))
    return AsgiClient(create_app(host.real, access=access, cors_origins=cors_origins))


async def preflight(client: AsgiClient, path: str = CHAT, **headers: str) -> Reply:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": SDK_HEADERS}
    return await client.request("OPTIONS", path, headers=OF_PAGE | asked | headers)


def cors_headers(headers: Mapping[str, str]) -> list[str]:
    return [name for name in headers if name.startswith("access-control-") or name == "vary"]


# --------------------------------------------------------------------------------------------------------- preflights


@pytest.mark.parametrize("path", [CHAT, "/models/load", "/health", "/nothing", "/v1//models"])
@pytest.mark.parametrize(("listed", "granted"), [(PAGE, PAGE), ("*", "*")])
async def test_a_page_of_a_listed_origin_may_send_all_headers_that_its_sdk_sends(
    path: str, listed: str, granted: str
) -> None:
    async with scripted_host() as host:
        reply = await preflight(client_of(host, listed), path)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == granted
    assert reply.headers["access-control-allow-headers"] == SDK_HEADERS
    assert reply.headers["access-control-allow-methods"] == "GET, HEAD, POST"
    assert "access-control-allow-credentials" not in reply.headers


async def test_a_page_of_a_public_address_may_reach_a_private_one_if_it_asks() -> None:
    async with scripted_host() as host:
        client = client_of(host, PAGE)
        asked = await preflight(client, **{"access-control-request-private-network": "true"})
        assert asked.headers["access-control-allow-private-network"] == "true"
        assert "access-control-allow-private-network" not in (await preflight(client)).headers


@pytest.mark.parametrize("origin", ["https://other.example", "http://app.example", "https://app.example:444", "null"])
@pytest.mark.parametrize("listed", [(), (PAGE,)])
async def test_a_page_of_another_origin_is_refused_with_the_key_that_would_allow_it(
    origin: str, listed: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host() as host:
        reply = await preflight(client_of(host, *listed), origin=origin)
    assert (reply.status, reply.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "`cors_origins`" in reply.json()["error"]["message"]
    assert "access-control-allow-origin" not in reply.headers
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_page_after_dns_rebinding_is_refused_even_if_every_origin_is_allowed() -> None:
    async with scripted_host() as host:
        reply = await preflight(client_of(host, "*"), host="evil.example")
    assert (reply.status, reply.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize("headers", [{}, {"origin": PAGE}, {"access-control-request-method": "POST"}])
async def test_another_options_stays_a_405(headers: dict[str, str]) -> None:
    async with scripted_host() as host:
        reply = await client_of(host, PAGE).request("OPTIONS", CHAT, headers={"host": "localhost"} | headers)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_a_preflight_needs_no_routes() -> None:
    async with scripted_host() as host:
        late = LateRoutes(lambda: create_app(host.real))
        reply = await preflight(AsgiClient(HttpRules(late, cors_origins=[PAGE])))
    assert reply.status == 204


# ------------------------------------------------------------------------------------------------------------ answers

ASKED = {
    "a whole reply": ("POST", CHAT, chat_body(A), 200),
    "a stream": ("POST", CHAT, chat_body(A, stream=True), 200),
    "a probe": ("GET", "/health", b"", 200),
    "HEAD": ("HEAD", "/health", b"", 200),
    "a body that is refused": ("POST", CHAT, b"{", 400),
    "an unknown model": ("POST", CHAT, chat_body("org/none"), 404),
    "an unknown path": ("GET", "/nothing", b"", 404),
    "two slashes": ("GET", "//health", b"", 404),
    "an unknown method": ("DELETE", CHAT, b"", 405),
    "a lost reply": ("POST", CHAT, chat_body("org/dead"), 500),
}


@pytest.mark.parametrize(("method", "path", "body", "status"), ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("listed", [PAGE, "*"])
async def test_a_page_of_a_listed_origin_may_read_every_answer_and_no_other_page_may(
    listed: str, method: str, path: str, body: object, status: int
) -> None:
    scripts = {"org/dead": ScriptedModel(reply=[EngineDead("org/dead", "signal 9")])}
    async with scripted_host(scripts, resident=[A, "org/dead"]) as host:
        client = client_of(host, listed)
        reply = await client.request(method, path, body, headers=JSON | OF_PAGE)
        plain = await client.request("GET", "/health", headers={"host": "localhost"})
        foreign = await client.request(
            "GET", "/health", headers={"host": "localhost", "origin": "https://other.example"}
        )
    assert reply.status == status
    assert reply.headers["access-control-allow-origin"] == listed
    if listed == PAGE:
        assert reply.headers["vary"] == plain.headers["vary"] == foreign.headers["vary"] == "Origin"
        assert cors_headers(plain.headers) == cors_headers(foreign.headers) == ["vary"]


async def test_a_page_may_read_the_headers_that_say_when_to_come_back() -> None:
    async with scripted_host({A: ScriptedModel()}, resident=[A]) as host:
        host.registry.close_admission()
        reply = await client_of(host, PAGE).post(CHAT, chat_body(A), headers=JSON | OF_PAGE)
    assert (reply.status, reply.headers["retry-after"]) == (503, "15")
    assert "retry-after" in reply.headers["access-control-expose-headers"].split(", ")


async def test_a_refusal_for_the_origin_is_not_readable_and_the_request_has_no_effect() -> None:
    async with scripted_host(resident=[A]) as host:
        headers = JSON | {"host": "localhost", "origin": "https://other.example"}
        reply = await client_of(host, PAGE).post(CHAT, chat_body(A), headers=headers)
        assert host.harness.requests == []
    assert (reply.status, cors_headers(reply.headers)) == (403, ["vary"])


async def test_without_listed_origins_no_answer_says_anything_to_a_browser() -> None:
    async with scripted_host(resident=[A]) as host:
        reply = await client_of(host).request("GET", "/health", headers=OF_PAGE)
    assert cors_headers(reply.headers) == []


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_in_a_preflight_are_judged_without_an_exception(origin: bytes, asked: bytes) -> None:
    rules = CorsRules.of([PAGE])
    found = rules.preflight(
        "OPTIONS",
        [
            (b"origin", origin),
            (b"access-control-request-method", b"POST"),
            (b"access-control-request-headers", asked),
        ],
    )
    assert found is not None
    verdict = rules.judge(found)
    assert isinstance(verdict, list) is (origin.lower() == PAGE.encode())


# ------------------------------------------------------------------------------------------------------------ aliases


async def test_a_model_answers_to_its_alias_and_the_reply_has_the_name_that_the_client_wrote() -> None:
    async with scripted_host(resident=[A], model_aliases={"dummy": A}) as host:
        reply = await host.client.post(CHAT, chat_body("dummy"))
        unknown = await host.client.post(CHAT, chat_body("Dummy"))
        assert [task.model_id for task in host.harness.requests] == [A]
    assert (reply.status, reply.json()["model"]) == (200, "dummy")
    assert (unknown.status, unknown.json()["error"]["code"]) == (404, "model_not_found")
