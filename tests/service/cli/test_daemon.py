"""Which daemon a command talks to."""

from pathlib import Path

import click
import pytest

from neuron_service.cli.daemon import daemon_address, find_client


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("host", "environ", "shown"),
    [
        (None, {}, "http://127.0.0.1:13131"),
        ("gpu1", {"NEURON_HOST": "gpu2"}, "http://gpu1:13131"),
        (None, {"NEURON_HOST": "https://gpu2"}, "https://gpu2:443"),
        (None, {"NEURON_HOST": "0.0.0.0", "NEURON_PORT": "9"}, "http://127.0.0.1:9"),  # noqa: S104 - asked, not bound
        (None, {"NEURON_HOST": " ", "NEURON_PORT": "9"}, "http://127.0.0.1:9"),
        (None, {"NEURON_PORT": "x"}, "http://127.0.0.1:13131"),
        ("unix:/run/s", {}, "unix:/run/s"),
    ],
)
def test_the_option_comes_before_the_environment_and_that_before_this_machine(
    host: str | None, environ: dict[str, str], shown: str
) -> None:
    assert str(daemon_address(host, None, environ)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", "http://127.0.0.1:13131"),
        ("port = 9", "http://127.0.0.1:9"),
        ('host = "::"\nport = 0', "http://[::1]:13131"),
        ('host = "unix:/run/s"\ntls_cert = "c"', "unix:/run/s"),
        ('tls_cert = "c"\ntls_key = "k"', "https://127.0.0.1:13131"),
    ],
)
def test_without_both_the_daemon_is_that_of_the_configuration(text: str, shown: str, tmp_path: Path) -> None:
    Path("neuron.toml").write_text(text)
    assert str(daemon_address(None, None, {})) == shown
    assert str(daemon_address(None, Path("neuron.toml"), {})) == shown
    assert str(daemon_address("gpu1", Path("nowhere.toml"), {})) == "http://gpu1:13131"


def test_the_certificate_of_the_own_configuration_is_for_another_name_and_not_checked() -> None:
    Path("neuron.toml").write_text('tls_cert = "c"')
    assert not daemon_address(None, None, {}).checks_certificate
    assert daemon_address("https://127.0.0.1", None, {}).checks_certificate


@pytest.mark.parametrize(
    ("host", "config", "environ", "said"),
    [
        ("a b", None, {}, "--host: 'a b' is not the address"),
        (None, None, {"NEURON_HOST": "a b"}, "NEURON_HOST: 'a b' is not the address"),
        (None, "nowhere.toml", {}, "nowhere.toml: No such file"),
        (None, "bad.toml", {}, "bad.toml: "),
        (None, "host.toml", {}, "host.toml: `host`: "),
    ],
)
def test_a_place_that_cannot_be_read_is_named(
    host: str | None, config: str | None, environ: dict[str, str], said: str
) -> None:
    Path("bad.toml").write_text("port = ")
    Path("host.toml").write_text("host = 'a b'")
    with pytest.raises(click.UsageError) as caught:
        daemon_address(host, None if config is None else Path(config), environ)
    assert said in caught.value.message


@pytest.mark.parametrize("key", ["a\nb", "ключ"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(click.UsageError, match="NEURON_API_KEY is no API key") as caught:
        find_client(None, None, {"NEURON_API_KEY": key})
    assert key not in caught.value.message
