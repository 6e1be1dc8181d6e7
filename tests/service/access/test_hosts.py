import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.wire.http_errors import AccessRefused, HostNotAllowed, MalformedHost, OriginNotAllowed
from neuron_service.access.hosts import AccessRules, is_loopback
from neuron_service.app import create_app
from neuron_service.http.listening import bind
from tests.fakes.asgi_client import JSON, AsgiClient
from tests.fakes.scripted_host import chat_body, scripted_host

LOCAL = AccessRules(takes_any_host=False)
REMOTE = AccessRules(takes_any_host=True)
A = "org/a"
ANYWHERE = "0.0.0.0"  # noqa: S104 - for sockets that nobody connects to
CHAT = "/v1/chat/completions"


def judge(rules: AccessRules, *headers: tuple[str, str], method: str = "GET", version: str = "1.1") -> type | None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    refusal = rules.refusal(method, version, raw)
    return None if refusal is None else type(refusal)


def asks_for(host: str, rules: AccessRules = LOCAL) -> type | None:
    return judge(rules, ("host", host))


def writes_from(origin: str, rules: AccessRules = LOCAL, *, host: str = "localhost:13131") -> type | None:
    return judge(rules, ("host", host), ("origin", origin), method="POST")


def rules_for(*hosts: str, origins: Sequence[str] = (), listens_on: str = "127.0.0.1") -> AccessRules:
    with bind(listens_on, 0) as sock:
        return AccessRules.for_listener(sock, allowed_hosts=hosts, allowed_origins=origins)


# -------------------------------------------------------------------------------------------------------------- Host


@pytest.mark.process
@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost", "localhost.", "localhost:13131", "localhost:", "127.0.0.1", "127.0.0.1:80",
        "127.255.1.2:13131", "[::1]", "[::1]:13131", "[0:0:0:0:0:0:0:1]:1", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]:5",
    ],
)  # fmt: skip
def test_a_loopback_host_may_always_be_asked_for(host: str) -> None:
    assert asks_for(host) is None
    assert asks_for(host, rules_for("neuron.example", listens_on=ANYWHERE)) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:13131", "localhost.evil.example", "evil-localhost", "sub.localhost",
        "localhost..", "127.0.0.1.evil.example", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
        ANYWHERE, "10.0.0.1", "[::]",
        "[::ffff:10.0.0.1]", "[fe80::1]", "128.0.0.1", "xn--lcalhost-54a", "_",
    ],
)  # fmt: skip
def test_any_other_host_is_refused_on_a_loopback_address(host: str) -> None:
    assert asks_for(host) is HostNotAllowed
    assert asks_for(host, REMOTE) is None


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "localhost:x", "localhost:65536", "localhost:-1", "localhost:1:2", "user@localhost",
        "http://localhost", "localhost/", "localhost, localhost", "localhost localhost", "[::1", "::1",
        "[::1]x", "[localhost]", "[1.2.3.4]",
        "[::1%25lo]", "loc\xe4lhost", ".", "local\0host", "a" * 1000, "localhost:" + "0" * 400, "localhost?x", "[]",
    ],
)  # fmt: skip
@pytest.mark.parametrize("rules", [LOCAL, REMOTE, rules_for("*")])
def test_an_impossible_host_is_malformed_on_every_listener(rules: AccessRules, host: str) -> None:
    assert asks_for(host, rules) is MalformedHost


@pytest.mark.parametrize("rules", [LOCAL, REMOTE])
def test_a_request_has_one_host_and_only_one_of_http_1_0_may_have_none(rules: AccessRules) -> None:
    assert judge(rules) is MalformedHost
    assert judge(rules, version="1.0") is None
    for version in ("1.0", "1.1"):
        assert judge(rules, ("host", "localhost"), ("host", "localhost"), version=version) is MalformedHost


@pytest.mark.process
@pytest.mark.parametrize("listens_on", ["127.0.0.1", ANYWHERE])
def test_a_host_that_is_listed_may_be_asked_for_in_any_spelling(listens_on: str) -> None:
    rules = rules_for("Neuron.Example", "10.0.0.5", "fd00:0::5", "[fd00::6]", listens_on=listens_on)
    for host in ("neuron.example", "NEURON.example.:80", "10.0.0.5:13131", "[fd00::5]", "[FD00:0:0::6]:1", "localhost"):
        assert asks_for(host, rules) is None
    for host in ("example", "sub.neuron.example", "evil.example", "10.0.0.6"):
        assert asks_for(host, rules) is HostNotAllowed


@pytest.mark.process
def test_a_listener_takes_the_name_that_it_was_bound_to_but_not_the_address_of_all_interfaces() -> None:
    with bind("127.0.1.1", 0) as sock:
        assert asks_for("my-machine:1", AccessRules.for_listener(sock, own_name="my-machine")) is None
        assert asks_for(ANYWHERE, AccessRules.for_listener(sock, own_name=ANYWHERE)) is HostNotAllowed


@pytest.mark.process
def test_a_star_allows_any_host() -> None:
    assert asks_for("evil.example", rules_for("*")) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_either_a_host_or_malformed(raw: bytes) -> None:
    refusal = LOCAL.refusal("GET", "1.1", [(b"host", raw)])
    assert refusal is None or (isinstance(refusal, HostNotAllowed | MalformedHost) and len(refusal.message) < 1000)


# --------------------------------------------------------------------------------------------------------- listeners


@contextmanager
def unix_socket(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "socket"))
        yield sock


@pytest.mark.process
@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.0.0.5", True), (ANYWHERE, False), ("::1", True), ("::", False)],
)
def test_the_socket_says_whether_it_is_on_loopback(address: str, *, expected: bool) -> None:
    with bind(address, 0) as sock:
        assert is_loopback(sock) is expected
        with socket.socket(fileno=socket.dup(sock.fileno())) as inherited:  # as systemd hands one over
            assert is_loopback(inherited) is expected


def test_a_unix_socket_takes_any_host(tmp_path: Path) -> None:
    with unix_socket(tmp_path) as sock:
        assert asks_for("whatever", AccessRules.for_listener(sock)) is None


# ------------------------------------------------------------------------------------------------------------ Origin


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:13131", "http://localhost:13131"),
        ("LOCALHOST:13131", "http://localhost:13131"),
        ("127.0.0.1:13131", "http://127.0.0.1:13131"),
        ("[::1]:13131", "http://[::1]:13131"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost"),
    ],
)
def test_a_page_of_this_server_may_change_something(host: str, origin: str) -> None:
    assert writes_from(origin, host=host) is None


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "http://localhost", "http://localhost:13132", "http://127.0.0.1:13131",
        "https://localhost", "http://localhost:13131.evil.example", "file://", "chrome-extension://abc", "tauri://localhost",
        "http://localhost:13131/", "http://user@localhost:13131", "localhost:13131", "http://localhost:13131 ", "*",
    ],
)  # fmt: skip
@pytest.mark.parametrize("rules", [LOCAL, REMOTE])
def test_a_page_of_another_origin_may_not(rules: AccessRules, origin: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "MADEUP"):
        assert judge(rules, ("host", "localhost:13131"), ("origin", origin), method=method) is OriginNotAllowed
    for method in ("GET", "HEAD", "OPTIONS"):
        assert judge(rules, ("host", "localhost:13131"), ("origin", origin), method=method) is None


def test_a_program_that_sends_no_origin_may_change_something() -> None:
    assert judge(LOCAL, ("host", "localhost"), method="POST") is None
    assert judge(REMOTE, ("host", "neuron.example"), method="POST") is None


def test_several_origins_are_refused() -> None:
    ours = ("origin", "http://localhost")
    assert judge(LOCAL, ("host", "localhost"), ours, ours, method="POST") is OriginNotAllowed


def test_a_page_after_dns_rebinding_has_our_origin_and_is_still_refused() -> None:
    origin, host = "http://evil.example:13131", "evil.example:13131"
    assert writes_from(origin, LOCAL, host=host) is HostNotAllowed
    assert writes_from(origin, REMOTE, host=host) is OriginNotAllowed


@pytest.mark.process
def test_a_page_at_a_listed_name_may_change_something() -> None:
    rules = rules_for("neuron.example")
    assert writes_from("https://neuron.example", rules, host="neuron.example") is None
    assert writes_from("http://neuron.example:8080", rules, host="neuron.example:8080") is None
    assert writes_from("http://neuron.example:8080", rules, host="localhost:8080") is OriginNotAllowed


def test_a_page_at_the_address_of_this_server_may_change_something() -> None:
    assert writes_from("http://10.0.0.5:13131", REMOTE, host="10.0.0.5:13131") is None
    assert writes_from("http://10.0.0.6:13131", REMOTE, host="10.0.0.5:13131") is OriginNotAllowed


@pytest.mark.process
def test_an_origin_that_is_listed_may_change_something() -> None:
    rules = rules_for(origins=["https://App.example", "tauri://localhost"])
    for origin in ("https://app.example", "tauri://localhost"):
        assert writes_from(origin, rules) is None
    for origin in ("http://app.example", "https://app.example:444", "https://x.app.example", "null"):
        assert writes_from(origin, rules) is OriginNotAllowed


@pytest.mark.process
def test_a_star_allows_any_origin() -> None:
    assert writes_from("null", rules_for(origins=["*"])) is None


# ------------------------------------------------------------------------------------------------- the application


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"host": "evil.example"}, (403, "host_not_allowed", "`allowed_hosts`")),
        ({"host": "localhost", "origin": "http://evil.example"}, (403, "origin_not_allowed", "`cors_origins`")),
        ({}, (400, "malformed_host", "Host")),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/models/load", "/models/unload", "/nothing", "/health"])
async def test_a_refusal_names_the_configuration_key_and_the_request_has_no_effect(
    path: str, headers: dict[str, str], answer: tuple[int, str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_host(resident=[A]) as host:
        client = AsgiClient(create_app(host.real, access=LOCAL))
        # The body is announced and never comes: nobody waits for it.
        async with client.open("POST", path, {"model_id": A}, headers=JSON | headers, more_body=True) as exchange:
            reply = await exchange.reply()
        assert [model.id for model in host.registry.list_models()] == [A]
        assert host.harness.requests == []
    status, code, key = answer
    error = reply.json()["error"]
    assert (reply.status, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert key in error["message"]
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert vars(warning)["status"] == status


@pytest.mark.anyio
async def test_a_request_that_is_allowed_is_answered() -> None:
    async with scripted_host(resident=[A]) as host:
        client = AsgiClient(create_app(host.real, access=LOCAL))
        own = JSON | {"host": "localhost:13131", "origin": "http://localhost:13131"}
        assert (await client.post(CHAT, chat_body(A), headers=own)).status == 200
        assert (await client.request("GET", "/health", headers={"host": "127.0.0.1"})).status == 200
        assert (await client.request("GET", "/health", headers={"host": "evil.example"})).status == 403


@pytest.mark.anyio
@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "identity, gzip", "deflate", "x"])
async def test_a_compressed_body_is_a_415(coding: str) -> None:
    async with scripted_host(resident=[A]) as host:
        for path in (CHAT, "/models/load", "/models/unload"):
            reply = await host.client.post(path, chat_body(A), headers=JSON | {"content-encoding": coding})
            assert (reply.status, reply.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.anyio
@pytest.mark.parametrize("coding", ["identity", "", "Identity, identity"])
async def test_a_body_with_the_coding_identity_is_read(coding: str) -> None:
    async with scripted_host(resident=[A]) as host:
        headers = JSON | {"content-encoding": coding}
        assert (await host.client.post(CHAT, chat_body(A), headers=headers)).status == 200


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_any_bytes_as_host_and_origin_are_refused_without_an_exception(host: bytes, origin: bytes) -> None:
    refusal = LOCAL.refusal("POST", "1.1", [(b"host", host), (b"origin", origin)])
    assert isinstance(refusal, AccessRefused)
