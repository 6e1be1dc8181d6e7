"""Which daemon a command talks to, and with which key: `--host`, the environment, the configuration, or this machine.

Reads a configuration for its address only, and not as `neuron serve` does: the imports of that would take longer than
most commands.
"""

import functools
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from neuron_service.cli.options import Command, config_option
from neuron_service.client.address import DEFAULT_ADDRESS, DEFAULT_PORT, Address, parse_address

if TYPE_CHECKING:
    from neuron_service.client.client import Client
    from neuron_service.client.connection import Certificate

__all__ = (
    "api_key",
    "client_certificate",
    "daemon_address",
    "find_client",
    "host_option",
    "names_daemon",
    "with_daemon",
)

_HOST: Final = "NEURON_HOST"
_PORT: Final = "NEURON_PORT"
_KEY: Final = "NEURON_API_KEY"
_CERTIFICATE: Final = "NEURON_CLIENT_CERT"
_CERTIFICATE_KEY: Final = "NEURON_CLIENT_KEY"
_DEFAULT_CONFIG: Final = Path("neuron.toml")


def with_daemon(function: Command) -> Command:
    """Give a command `--host` and `--config`. Its function gets the argument `client`, a `Client` of the daemon."""

    @functools.wraps(function)
    def run(*args: object, host: str | None, config: Path | None, **rest: object) -> int | None:
        return function(*args, client=find_client(host, config, os.environ), **rest)

    return host_option(config_option(run))


def host_option(function: Command) -> Command:
    """Give a command `--host`. Its function gets the argument `host`."""
    option = click.option(
        "-H",
        "--host",
        metavar="HOST",
        help="The daemon: HOST[:PORT], https://HOST or unix:/PATH. Default: NEURON_HOST, else the configuration's.",
    )
    return option(function)


def names_daemon(host: str | None, environ: Mapping[str, str]) -> bool:
    """Whether the person has named a daemon, which has to be there then."""
    return host is not None or bool(environ.get(_HOST, "").strip())


def find_client(host: str | None, config: Path | None, environ: Mapping[str, str]) -> "Client":
    """A client of the daemon that these name. Raises `click.UsageError` where they name none."""
    try:
        key = api_key(environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    from neuron_service.client.client import Client

    return Client(daemon_address(host, config, environ), key=key, certificate=client_certificate(environ))


def api_key(environ: Mapping[str, str]) -> str | None:
    """The key in `NEURON_API_KEY`, if there is one. Raises `ValueError` for text that no service can be sent."""
    key = environ.get(_KEY, "").strip()
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"{_KEY} is no API key; it has characters that no key has")
    return key or None


def client_certificate(environ: Mapping[str, str]) -> "Certificate | None":
    """The certificate of this client, from `NEURON_CLIENT_CERT` and `NEURON_CLIENT_KEY`."""
    from neuron_service.client.connection import Certificate

    file = environ.get(_CERTIFICATE, "").strip()
    return Certificate(file, environ.get(_CERTIFICATE_KEY, "").strip() or None) if file else None


def daemon_address(host: str | None, config: Path | None, environ: Mapping[str, str]) -> Address:
    """Where the daemon is: `host`, else `NEURON_HOST` with `NEURON_PORT`, else the file `config`, else this machine.

    Without `config` the file is `neuron.toml` in the current directory, if it is there. Raises `click.UsageError`.
    """
    named = host if host is not None else environ.get(_HOST, "").strip() or None
    if named is not None:
        try:
            return parse_address(named, default_port=_port(environ.get(_PORT, "")))
        except ValueError as error:
            raise click.UsageError(f"{_HOST if host is None else '--host'}: {error}") from None
    if config is None and not _DEFAULT_CONFIG.exists():
        return parse_address("", default_port=_port(environ.get(_PORT, "")))
    return _configured(config or _DEFAULT_CONFIG, environ)


def _configured(path: Path, environ: Mapping[str, str]) -> Address:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise click.UsageError(f"{path}: {error}") from None
    host, port = table.get("host", DEFAULT_ADDRESS.host), _own_port(table, environ)
    try:
        address = parse_address(str(host), default_port=port)
    except ValueError as error:
        raise click.UsageError(f"{path}: `host`: {error}") from None
    if "tls_cert" not in table or address.scheme == "unix":
        return address
    return Address(scheme="https", host=address.host, port=address.port, checks_certificate=False)


def _own_port(table: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    port = table.get("port", DEFAULT_PORT)
    return _port(environ.get(_PORT, "") or str(port))


def _port(text: str) -> int:
    """The port in a text. The usual one for a text that is none, which `neuron serve` refuses."""
    text = text.strip()
    is_port = text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 1 << 16
    return int(text) if is_port else DEFAULT_PORT
