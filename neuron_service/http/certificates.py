"""The certificates of the listener. Reads files once, and keeps no path."""

import os
import ssl
from pathlib import Path
from typing import NoReturn

from neuron_lib.errors import ConfigError

__all__ = ("Certificates", "tls_context")


class Certificates:
    """The certificates that the next connections get. Connections that are open keep those that they have."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


def tls_context(*, cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """The context of a server with these files in PEM. With `client_ca` a client must have a certificate of it.

    Blocking. Raises `ConfigError`, which names the key of the configuration and the file, and shows nothing of it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("tls_cert", cert), ("tls_key", key), ("tls_client_ca", client_ca)):
        if path is not None:
            _require_readable(name, path)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = _reason(error)
        raise ConfigError(f"`tls_cert` {cert} and `tls_key` {key}: {reason}") from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"`tls_client_ca` {client_ca}: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_readable(name: str, path: Path) -> None:
    """OpenSSL's own errors do not say which of two files is missing."""
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise ConfigError(f"`{name}` {path}: {error.strerror}") from error


def _refuse_password() -> NoReturn:
    """Without this OpenSSL would ask for the password on the terminal."""
    raise ValueError("the key is encrypted, and nobody can be asked for its password; store it without one")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (
            "the certificate and the key do not belong together"
            if error.reason == "KEY_VALUES_MISMATCH"
            else (f"no certificate or key in PEM can be read ({error.reason or 'unknown format'})")
        )
    return str(error)
