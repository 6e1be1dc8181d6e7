"""The entrance in front of the whole service: refusals in the shape of each API, and what is read of no stranger."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from neuron_lib.types import Principal
from neuron_lib.wire.http_errors import INVALID
from neuron_service.access.entrance import EntranceRules
from neuron_service.access.keys import KeyRing, line_of, parse_keys
from neuron_service.access.networks import Networks
from neuron_service.app import create_app
from tests.fakes.asgi_client import JSON, AsgiClient
from tests.fakes.scripted_host import ScriptedHost, chat_body, scripted_host

pytestmark = pytest.mark.anyio

A = "org/a"
SECRET = "neuron-laptop"  # noqa: S105 - of a key in a test
STRANGER, LAN = "198.51.100.9", "192.168.1.5"
PAGE = "https://app.example.org"
KEY = {"x-api-key": SECRET}


@asynccontextmanager
async def host_with_keys(*, trusted: tuple[str, ...] = ("loopback", "private")) -> AsyncIterator[ScriptedHost]:
    async with scripted_host(resident=[A]) as host:
        host.real.entrance.replace(
            EntranceRules(
                trusted=Networks.of(trusted, own_uid=1),
                keys=KeyRing(parse_keys(line_of("laptop", ["inference"], SECRET), place="keys")),
            )
        )
        yield host


def client_at(address: str, host: ScriptedHost) -> AsgiClient:
    return AsgiClient(create_app(host.real, cors_origins=[PAGE]), address=address)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", INVALID),
        ("/v1/responses", INVALID),
        ("/v1/messages", "authentication_error"),
        ("/v1/messages/count_tokens", "authentication_error"),
        ("/models/load", INVALID),
    ],
)
async def test_a_stranger_gets_401_in_the_shape_of_the_path(path: str, kind: str) -> None:
    async with host_with_keys() as host:
        reply = await client_at(STRANGER, host).post(path, b"not even JSON")
    error = reply.json()["error"]
    code = error["details"]["error_code"] if kind != INVALID else error["code"]
    assert (reply.status, error["type"], code) == (401, kind, "invalid_api_key")
    assert reply.headers["www-authenticate"] == 'Bearer realm="neuron"'
    assert host.harness.requests == []


async def test_a_key_without_the_scope_gets_403_in_the_shape_of_the_path() -> None:
    async with host_with_keys() as host:
        client = client_at(STRANGER, host)
        load = await client.post("/models/load", {"model_id": "org/b", "harness": "scripted"}, headers=JSON | KEY)
        metrics = await client.request("GET", "/metrics", headers=KEY)
    assert [reply.status for reply in (load, metrics)] == [403, 403]
    assert load.json()["error"]["code"] == "insufficient_scope"
    assert load.headers["www-authenticate"] == 'Bearer realm="neuron", error="insufficient_scope", scope="admin"'
    assert "open org/b" not in host.harness.log


@pytest.mark.parametrize("path", ["/metrics%2F", "/%2Fmetrics", "/metrics%2f%2f", "/metrics/", "//metrics"])
async def test_no_spelling_of_a_path_gets_around_its_scope(path: str) -> None:
    async with host_with_keys() as host:
        reply = await client_at(STRANGER, host).request("GET", path, headers=KEY)
    assert (reply.status, reply.json()["error"]["code"]) == (404, "not_found")


async def test_a_request_counts_for_the_key_of_its_caller() -> None:
    gateway = {"x-helexa-account-id": "acme", "x-helexa-key-id": "k1"}
    async with host_with_keys() as host:
        for address, headers in ((STRANGER, KEY), (STRANGER, KEY | gateway), (LAN, gateway), (LAN, {})):
            reply = await client_at(address, host).post("/v1/chat/completions", chat_body(A), headers=JSON | headers)
            assert reply.status == 200
        principals = [request.principal for request in host.harness.requests]
    own = Principal("key:laptop", "laptop")
    assert principals == [own, own, Principal("acme", "k1"), None]


async def test_a_refused_stranger_is_one_line_in_the_log_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with host_with_keys() as host:
        caplog.clear()
        await client_at(STRANGER, host).post("/v1/messages", b"{}", headers=JSON | {"x-api-key": "neuron-canary"})
    (line,) = [record for record in caplog.records if record.name.startswith("neuron_")]
    assert line.levelno == logging.WARNING
    assert STRANGER in line.getMessage()
    assert (line.__dict__["status"], line.__dict__["code"]) == (401, "invalid_api_key")
    assert "canary" not in caplog.text


async def test_health_says_who_is_let_in_and_is_closed_to_strangers() -> None:
    async with host_with_keys() as host:
        health = await client_at(LAN, host).get("/health")
        closed = await client_at(STRANGER, host).get("/health")
        alive = await client_at(STRANGER, host).get("/healthz")
        with_key = await client_at(STRANGER, host).request("GET", "/health", headers=KEY)
    assert health.json()["access"] == {
        "summary": "callers from loopback and private networks need no key, all others need the one key",
        "trusted_networks": ["loopback", "private"],
        "trusted_proxies": [],
        "keys": 1,
    }
    assert [reply.status for reply in (closed, alive, with_key)] == [401, 200, 200]


async def test_health_of_a_program_that_checks_its_callers_itself_says_nothing_of_access() -> None:
    async with scripted_host() as host:
        assert "access" not in (await host.client.get("/health")).json()


async def test_a_browser_may_ask_first_and_may_read_why_it_needs_a_key() -> None:
    """A preflight never has a key. A page that cannot read the 401 shows only that "something" failed."""
    ask = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    async with host_with_keys() as host:
        client = client_at(STRANGER, host)
        asked = await client.request("OPTIONS", "/v1/chat/completions", headers=ask)
        refused = await client.post("/v1/chat/completions", b"{}", headers={"origin": PAGE} | JSON)
        options = await client.request("OPTIONS", "/v1/chat/completions", headers={})
    assert (asked.status, asked.headers["access-control-allow-headers"]) == (204, "x-api-key")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, PAGE)
    assert options.status == 401


async def test_head_of_a_probe_needs_a_key_too() -> None:
    async with host_with_keys(trusted=()) as host:
        replies = [await client_at("127.0.0.1", host).request("HEAD", path) for path in ("/health", "/healthz")]
    assert [(reply.status, reply.body == b"") for reply in replies] == [(401, False), (200, True)]
