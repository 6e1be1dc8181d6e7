"""What the service of a configuration has loaded, asked over HTTP. Imports no server."""

import contextlib
import http.client
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec
from msgspec import Struct

from neuron_lib.config import Config, unix_path
from neuron_service.cli.daemon import api_key, client_certificate
from neuron_service.client.address import Address, parse_address
from neuron_service.client.connection import open_connection

__all__ = ("ServiceSilent", "WantsCertificate", "WantsKey", "is_running", "loaded_ids")

_ANSWER_LIMIT_S: Final = 2.0


class ServiceSilent(Exception):
    """A program listens at the service's address and does not say which models it has loaded."""


class WantsKey(ServiceSilent):
    """The service answers, and wants another key or a key at all."""


class WantsCertificate(ServiceSilent):
    """A service with `tls_client_ca` has ended the connection, because this program has no certificate."""


class _Resident(Struct, frozen=True):
    id: str


class _Load(Struct, frozen=True):
    model_id: str


class _Health(Struct, frozen=True):
    """The part of `GET /health` that names the models in use."""

    models: tuple[_Resident, ...]
    loading: tuple[_Load, ...] = ()


def loaded_ids(config: Config, environ: Mapping[str, str]) -> frozenset[str]:
    """The ids that the service of this configuration has loaded or is loading. Empty if no service runs.

    If `environ` has an API key, the service is sent that key. Blocks for a few seconds at most. Raises `ServiceSilent`.
    """
    health = _ask(config, environ)
    if health is None:
        return frozenset()
    return frozenset({model.id for model in health.models} | {load.model_id for load in health.loading})


def is_running(config: Config, environ: Mapping[str, str]) -> bool:
    """Whether a service answers at the address of this configuration. Blocks and raises as `loaded_ids` does."""
    return _ask(config, environ) is not None


def _ask(config: Config, environ: Mapping[str, str]) -> _Health | None:
    """The health of the service. None if nothing listens."""
    try:
        key = api_key(environ)
    except ValueError as error:
        raise ServiceSilent(str(error)) from None
    address = _address(config)
    place = address.host if address.scheme == "unix" else f"{address.host} port {address.port}"
    is_encrypted = False
    try:
        with contextlib.closing(
            open_connection(address, timeout_s=_ANSWER_LIMIT_S, certificate=client_certificate(environ))
        ) as connection:
            connection.connect()
            is_encrypted = address.scheme == "https"
            connection.request("GET", "/health", headers={"x-api-key": key} if key else {})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == http.client.UNAUTHORIZED:
                problem = "does not know the key in NEURON_API_KEY" if key else "wants a key: set NEURON_API_KEY"
                raise WantsKey(f"the service at {place} {problem}")
            return msgspec.json.decode(body, type=_Health)
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except (OSError, http.client.HTTPException) as error:
        # With TLS 1.3 a server misses the certificate of its client only after the client's side of the handshake.
        if is_encrypted and config.tls_client_ca is not None and not isinstance(error, TimeoutError):
            problem = "wants a certificate of each client (`tls_client_ca`): name yours in NEURON_CLIENT_CERT"
            raise WantsCertificate(f"the service at {place} {problem}") from error
        raise ServiceSilent(f"{place} does not answer: {error!r}") from error
    except msgspec.MsgspecError as error:
        raise ServiceSilent(f"what listens on {place} is not neuron") from error


def _address(config: Config) -> Address:
    """Where the service of this machine listens. Its certificate is for the name that others use.

    Raises `ServiceSilent` for a `host` that no client can ask.
    """
    if (path := unix_path(config.host)) is not None:
        return Address(scheme="unix", host=str(path))
    try:
        address = parse_address(config.host, default_port=config.port)
    except ValueError as error:
        raise ServiceSilent(f"`host` of the configuration: {error}") from error
    return address if config.tls_cert is None else replace(address, scheme="https", checks_certificate=False)
