"""Who is let in, and as whom."""

import logging
from typing import Any

import msgspec.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.types import Principal
from neuron_lib.wire.http_errors import AccessRefused, KeyNotAllowed, MalformedIdentity, Unauthenticated
from neuron_service.access.entrance import Caller, Entrance, EntranceRules, Request
from neuron_service.access.keys import KeyRing, line_of, parse_keys
from neuron_service.access.networks import Networks
from neuron_service.access.scopes import SCOPES, Scope
from neuron_service.asgi import PEER
from neuron_service.dialects import DIALECTS

SECRET = "neuron-laptop"  # noqa: S105 - of a key in a test
LAN, STRANGER = "192.168.1.5", "198.51.100.9"
GATEWAY = {"x-helexa-account-id": "acme", "x-helexa-key-id": "k1"}
OWN_UID = 1234


def places(*entries: str) -> Networks:
    return Networks.of(entries, own_uid=OWN_UID)


def rules(
    *trusted: str, proxies: tuple[str, ...] = (), scopes: tuple[Scope, ...] = ("inference",), key: bool = True
) -> EntranceRules:
    text = line_of("laptop", scopes, SECRET) if key else ""
    return EntranceRules(
        trusted=places(*trusted), proxies=places(*proxies), keys=KeyRing(parse_keys(text, place="keys"))
    )


DEFAULT = rules("loopback", "private")


def scope(
    client: str | None = STRANGER,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
    peer_uid: int | None = None,
) -> dict[str, Any]:
    return {
        "method": method,
        "path": path,
        "client": None if client is None else (client, 4711),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "extensions": {} if peer_uid is None else {PEER: {"uid": peer_uid, "gid": 1, "pid": 1}},
    }


def judge(entrance: EntranceRules, *args: Any, **kwargs: Any) -> Caller | AccessRefused:
    return entrance.judge(Request.of(scope(*args, **kwargs)))


def admitted(entrance: EntranceRules, *args: Any, **kwargs: Any) -> Caller:
    caller = judge(entrance, *args, **kwargs)
    assert isinstance(caller, Caller)
    return caller


def bearer(secret: str = SECRET) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", LAN, "::ffff:192.168.1.5", "10.0.0.1", "fd00::7"])
def test_by_default_loopback_and_private_networks_need_no_key(client: str) -> None:
    assert admitted(DEFAULT, client).is_trusted
    assert admitted(DEFAULT, client, path="/models/load").principal is None


@pytest.mark.parametrize("client", [STRANGER, "2001:db8::1", "100.64.0.1", "localhost", None])
@pytest.mark.parametrize("entrance", [DEFAULT, rules("loopback", "private", key=False), rules()])
def test_everybody_else_needs_a_key(entrance: EntranceRules, client: str | None) -> None:
    assert isinstance(judge(entrance, client), Unauthenticated)
    assert isinstance(judge(entrance, client, method="GET", path="/health"), Unauthenticated)
    assert isinstance(judge(entrance, client, headers=bearer("wrong")), Unauthenticated)


def test_without_trusted_networks_loopback_needs_a_key_too() -> None:
    assert isinstance(judge(rules(), "127.0.0.1"), Unauthenticated)
    assert isinstance(judge(rules(), None, peer_uid=OWN_UID), Unauthenticated)
    assert not admitted(rules(), "127.0.0.1", headers=bearer()).is_trusted


def test_liveness_is_said_to_everybody_and_nothing_else_is() -> None:
    assert admitted(rules(), method="GET", path="/healthz").principal is None
    for path in ("/readyz", "/version", "/models", "/openapi.json", "/nothing", "/healthz/", "//healthz"):
        assert isinstance(judge(rules(), method="GET", path=path), Unauthenticated)


@pytest.mark.parametrize(
    "headers",
    [
        bearer(),
        {"authorization": f"bearer   {SECRET} "},
        {"x-api-key": SECRET},
        {"x-api-key": "sk-of-another-server", **bearer()},
        {"x-api-key": SECRET, **bearer("sk-of-another-server")},
    ],
)
def test_a_key_lets_its_owner_in_under_its_name(headers: dict[str, str]) -> None:
    assert admitted(DEFAULT, headers=headers).principal == Principal("key:laptop", "laptop")
    assert admitted(DEFAULT, LAN, headers=headers).principal == Principal("key:laptop", "laptop")


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Basic {SECRET}"}, {"authorization": SECRET}, {"api-key": SECRET}, {"x-api-key": ""}]
)
def test_other_ways_to_send_a_key_count_as_none(headers: dict[str, str]) -> None:
    assert isinstance(judge(DEFAULT, headers=headers), Unauthenticated)


def test_an_unknown_key_from_a_trusted_network_means_nothing() -> None:
    """Clients of a gateway send the gateway's keys, and the gateway passes them on."""
    assert admitted(DEFAULT, LAN, headers=bearer("sk-of-the-gateway")).principal is None


def test_a_gateway_is_believed_from_trusted_networks_only() -> None:
    assert admitted(DEFAULT, LAN, headers=GATEWAY).principal == Principal("acme", "k1")
    assert admitted(DEFAULT, LAN, headers=GATEWAY | bearer()).principal == Principal("acme", "k1")
    assert admitted(DEFAULT, headers=GATEWAY | bearer()).principal == Principal("key:laptop", "laptop")
    assert isinstance(judge(DEFAULT, headers=GATEWAY), Unauthenticated)


@pytest.mark.parametrize("name", GATEWAY)
def test_half_a_gateways_word_is_none(name: str) -> None:
    assert admitted(DEFAULT, LAN, headers=GATEWAY | {name: ""}).principal is None
    assert (
        admitted(DEFAULT, LAN, headers={key: value for key, value in GATEWAY.items() if key != name}).principal is None
    )


def test_an_id_of_a_gateway_is_bounded() -> None:
    assert admitted(DEFAULT, LAN, headers=GATEWAY | {"x-helexa-key-id": "k" * 256}).principal is not None
    assert isinstance(judge(DEFAULT, LAN, headers=GATEWAY | {"x-helexa-key-id": "k" * 257}), MalformedIdentity)


READ = ["/health", "/models", "/v1/models", "/models/loading", "/models/org/a/endpoint", "/nothing"]


@pytest.mark.parametrize("key_scope", ["inference", "admin", "metrics"])
def test_a_scope_opens_its_own_paths_and_every_key_reads_the_rest(key_scope: Scope) -> None:
    paths: dict[Scope, list[tuple[str, str]]] = {
        "inference": [("POST", path) for dialect in DIALECTS for path in dialect.paths],
        "admin": [("POST", "/models/load"), ("POST", "/models/unload"), ("DELETE", "/v1/models/a"), ("POST", "/new")],
        "metrics": [("GET", "/metrics"), ("POST", "/metrics")],
    }
    own = rules(scopes=(key_scope,))
    for scope_of_path, requests in paths.items():
        for method, path in requests:
            verdict = judge(own, method=method, path=path, headers=bearer())
            assert isinstance(verdict, Caller if scope_of_path == key_scope else KeyNotAllowed), (method, path)
    for path in READ:
        for method in ("GET", "HEAD", "OPTIONS"):
            assert isinstance(judge(own, method=method, path=path, headers=bearer()), Caller)


def test_a_trusted_caller_may_do_what_its_key_may_not() -> None:
    assert admitted(DEFAULT, LAN, path="/models/load", headers=bearer()).principal == Principal("key:laptop", "laptop")


def test_a_caller_behind_a_trusted_proxy_is_judged_by_its_own_address() -> None:
    behind = rules("loopback", "private", proxies=("loopback",))
    stranger, colleague = {"x-forwarded-for": f"10.0.0.1, {STRANGER}"}, {"x-forwarded-for": LAN}
    assert isinstance(judge(behind, "127.0.0.1", headers=stranger), Unauthenticated)
    assert isinstance(judge(behind, "127.0.0.1", headers={"x-forwarded-for": "unknown"}), Unauthenticated)
    assert admitted(behind, "127.0.0.1", headers=colleague).place == LAN
    assert admitted(behind, "127.0.0.1", headers=stranger | bearer()).place == STRANGER
    assert admitted(behind, "127.0.0.1").is_trusted
    assert isinstance(judge(behind, STRANGER, headers={"x-forwarded-for": "127.0.0.1"}), Unauthenticated)


def test_a_unix_socket_tells_its_users_apart() -> None:
    assert admitted(DEFAULT, None, peer_uid=OWN_UID).is_trusted
    assert admitted(DEFAULT, None, peer_uid=0).is_trusted
    assert isinstance(judge(DEFAULT, None, peer_uid=33), Unauthenticated)
    assert admitted(rules("user:33"), None, peer_uid=33).place == "user:33"
    behind = rules("loopback", proxies=("user:33",))
    assert isinstance(judge(behind, None, peer_uid=33, headers={"x-forwarded-for": STRANGER}), Unauthenticated)


def test_without_rules_everybody_is_let_in_and_believed() -> None:
    assert admitted(EntranceRules(), None, headers=GATEWAY).principal == Principal("acme", "k1")
    assert EntranceRules().state() is None


def test_a_refusal_says_what_would_help_and_never_shows_the_key() -> None:
    wrong = judge(DEFAULT, headers=bearer("neuron-wrong"))
    assert isinstance(wrong, Unauthenticated)
    assert "neuron-wrong" not in str(wrong)
    missing = judge(rules("private", key=False))
    assert STRANGER in str(missing)
    assert "`trusted_networks`" in str(missing)
    lacking = judge(DEFAULT, path="/models/load", headers=bearer())
    assert isinstance(lacking, AccessRefused)
    assert all(text.endswith(f"(asked from {STRANGER})") for text in (wrong.log_message, lacking.log_message))
    assert "'admin'" in str(lacking)
    assert SECRET not in str(lacking)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-api-key", b"x-forwarded-for", *map(str.encode, GATEWAY)]),
            st.binary(max_size=40) | st.just(b"Bearer ") | st.just(f"Bearer {SECRET}".encode()),
        )
    ),
    st.sampled_from([STRANGER, "127.0.0.1", None]),
)
def test_no_header_makes_a_stranger_a_caller_without_the_key(headers: list[tuple[bytes, bytes]], client: str) -> None:
    behind = rules("loopback", proxies=("loopback",))
    verdict = behind.judge(Request.of(scope(client) | {"headers": headers}))
    has_key = any(SECRET.encode() in value for _, value in headers)
    if isinstance(verdict, Caller):
        assert has_key or (client == "127.0.0.1" and verdict.is_trusted)


@pytest.mark.parametrize(
    ("entrance", "words"),
    [
        (DEFAULT, "callers from loopback and private networks need no key, all others need the one key"),
        (
            rules("loopback", key=False),
            "callers from loopback need no key, all others are refused, because there are no keys",
        ),
        (rules(), "every caller needs the one key"),
        (EntranceRules(), "nobody needs a key"),
    ],
)
def test_who_is_let_in_is_said_in_one_line(entrance: EntranceRules, words: str) -> None:
    assert entrance.in_words() == words


def test_the_state_has_no_name_and_no_hash_of_a_key() -> None:
    state = rules("loopback", proxies=("10.0.0.1",)).state()
    assert state is not None
    assert msgspec.json.decode(msgspec.json.encode(state)) == {
        "summary": "callers from loopback need no key, all others need the one key",
        "trusted_networks": ["loopback"],
        "trusted_proxies": ["10.0.0.1"],
        "keys": 1,
    }


def test_the_entrance_says_who_was_let_in_or_why_not() -> None:
    entrance = Entrance(DEFAULT)
    assert entrance.admit(scope(LAN)) == Caller(principal=None, place=LAN, is_trusted=True, scopes=frozenset(SCOPES))
    assert isinstance(entrance.admit(scope()), Unauthenticated)


def test_new_rules_count_from_the_next_request_on() -> None:
    entrance = Entrance(DEFAULT)
    assert isinstance(entrance.admit(scope(LAN)), Caller)
    entrance.replace(rules())
    assert isinstance(entrance.admit(scope(LAN)), Unauthenticated)


def test_a_proxy_that_nobody_named_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    entrance = Entrance(DEFAULT)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            entrance.admit(scope("127.0.0.1", headers={"x-forwarded-for": STRANGER}))
            entrance.admit(scope(headers=GATEWAY | bearer()))
            Entrance(rules("loopback", "private", proxies=("loopback",))).admit(
                scope("127.0.0.1", headers={"x-forwarded-for": LAN})
            )
    assert [("`trusted_proxies`" in text, "x-helexa" in text) for text in caplog.messages] == [
        (True, False),
        (False, True),
    ]
