"""Which place a request comes from, and which places are trusted."""

from ipaddress import ip_address

import pytest

from neuron_lib.errors import ConfigError
from neuron_service.access.networks import LocalUser, Networks, client_behind, parse_address, shown

OWN_UID = 1234


def places(*entries: str) -> Networks:
    return Networks.of(entries, own_uid=OWN_UID)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("loopback", ["127.0.0.1", "127.9.9.9", "::1"], ["10.0.0.1", "192.0.2.1", "::2"]),
        (
            "private",
            ["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.7.7", "169.254.1.1", "fd00::1", "fe80::1"],
            ["127.0.0.1", "172.32.0.1", "100.64.0.1", "8.8.8.8", "2001:db8::1", "0.0.0.1"],
        ),
        ("192.0.2.0/24", ["192.0.2.255"], ["192.0.3.0"]),
        ("2001:db8::/32", ["2001:db8::1"], ["2001:db9::1", "192.0.2.1"]),
        ("192.0.2.7", ["192.0.2.7"], ["192.0.2.8"]),
    ],
)
def test_an_entry_stands_for_its_addresses(entry: str, inside: list[str], outside: list[str]) -> None:
    networks = places(entry)
    assert [address for address in inside if not networks.has(ip_address(address))] == []
    assert [address for address in outside if networks.has(ip_address(address))] == []


def test_loopback_stands_for_root_and_the_own_user_on_a_unix_socket() -> None:
    assert places("loopback").has(LocalUser(0))
    assert places("loopback").has(LocalUser(OWN_UID))
    assert not places("loopback").has(LocalUser(33))
    assert not places("private").has(LocalUser(OWN_UID))


def test_a_user_is_named_by_name_or_number() -> None:
    assert places("user:root").has(LocalUser(0))
    assert places("user:33").has(LocalUser(33))
    with pytest.raises(ConfigError, match="user:nobody-at-all"):
        places("user:nobody-at-all")


def test_an_unknown_place_is_in_no_network() -> None:
    assert not places("0.0.0.0/0", "::/0", "loopback", "private").has(None)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_is_read_with_or_without_port_and_in_one_spelling(text: str, address: str) -> None:
    assert parse_address(text) == ip_address(address)


@pytest.mark.parametrize(
    "text", ["", "unknown", "unix:", "_hidden", "256.1.1.1", "1.2.3", "10", "[::1", "a:b:c", "\xff"]
)
def test_a_text_that_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


PROXY = ip_address("10.0.0.1")
PROXIES = places("10.0.0.0/24")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"10.0.0.9, 192.0.2.1"], "192.0.2.1"),  # the client has written the first address
        ([b"127.0.0.1, 192.0.2.1, 10.0.0.7"], "192.0.2.1"),  # two proxies
        ([b"127.0.0.1", b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1:555, 10.0.0.7:80"], "192.0.2.1"),
        ([b"10.0.0.9, 10.0.0.7"], "10.0.0.9"),  # the client is itself where the proxies are
        ([b"10.0.0.9, unknown"], None),
        ([b"unknown, 192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1,"], None),
        ([b""], None),
        ([b", ".join([b"10.0.0.2"] * 40)], None),
    ],
)
def test_only_what_trusted_proxies_have_written_counts(forwarded: list[bytes], client: str | None) -> None:
    expected = None if client is None else ip_address(client)
    assert client_behind(PROXY, forwarded, proxies=PROXIES) == expected


def test_the_word_of_a_stranger_about_others_does_not_count() -> None:
    stranger = ip_address("192.0.2.66")
    assert client_behind(stranger, [b"127.0.0.1"], proxies=PROXIES) == stranger
    assert client_behind(None, [b"127.0.0.1"], proxies=PROXIES) is None
    assert client_behind(LocalUser(33), [b"192.0.2.1"], proxies=PROXIES) == LocalUser(33)


def test_a_proxy_on_a_unix_socket_is_named_by_its_user() -> None:
    assert client_behind(LocalUser(33), [b"192.0.2.1"], proxies=places("user:33")) == ip_address("192.0.2.1")


def test_places_have_a_text_for_logs() -> None:
    assert [shown(place) for place in (None, LocalUser(33), PROXY)] == ["unknown", "user:33", "10.0.0.1"]
