"""Where a daemon is."""

import pytest

from neuron_service.client.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "http://127.0.0.1:13131"),
        (" gpu1 ", "http://gpu1:13131"),
        ("gpu1:80", "http://gpu1:80"),
        (":8080", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:13131"),
        ("[fe80::1]:9", "http://[fe80::1]:9"),
        ("http://gpu1", "http://gpu1:80"),
        ("HTTPS://gpu1.example/neuron/", "https://gpu1.example:443/neuron"),
        ("unix:/run/neuron/socket", "unix:/run/neuron/socket"),
        ("unix:///run/neuron/socket", "unix:/run/neuron/socket"),
    ],
)
def test_an_address_is_read_as_people_write_it_and_shown_so_that_it_can_be_read_again(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert parse_address(shown) == address


@pytest.mark.parametrize(("text", "host"), [("0.0.0.0", "127.0.0.1"), ("[::]:5", "::1"), ("::", "::1")])  # noqa: S104 - nothing is bound
def test_the_address_of_all_interfaces_stands_for_this_machine(text: str, host: str) -> None:
    assert parse_address(text).host == host


def test_the_usual_port_is_that_of_the_caller_only_where_the_address_names_none() -> None:
    assert [parse_address(text, default_port=9).port for text in ("gpu1", "gpu1:80", "http://gpu1")] == [9, 80, 80]


@pytest.mark.parametrize(
    "text",
    [
        "ftp://x",
        "http://x?y",
        "x:99999",
        "x:0",
        "x:y",
        "x y",
        "x\ny",
        "unix:",
        "unix:relative",
        "x" * 3000,
        "http://ü/",
        "a..b",
        "a" * 64,
        "%zz",
        "unix:/" + "a" * 107,
        "http://[::1",
        "[::g]",
    ],
)
def test_text_that_is_no_address_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a neuron, such as") as caught:
        parse_address(text)
    assert len(str(caught.value)) < 300


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="NEURON_API_KEY") as caught:
        parse_address("https://me:secret@gpu1")
    assert "secret" not in str(caught.value)


def test_the_urls_of_a_unix_socket_are_those_of_localhost() -> None:
    assert Address(scheme="unix", host="/run/s").url == "http://localhost"
