"""One HTTP connection to an address."""

import http.client
import socket
import ssl
from typing import NamedTuple

from neuron_service.client.address import Address
from neuron_service.client.translation import bad_certificate

__all__ = ("Certificate", "open_connection")


class Certificate(NamedTuple):
    """The certificate that a client shows: files in PEM. The key may be in the file of the certificate."""

    file: str
    key_file: str | None = None


def open_connection(
    address: Address, *, timeout_s: float, certificate: Certificate | None = None
) -> http.client.HTTPConnection:
    """A connection that is not open yet. Each wait of it is at most `timeout_s` long.

    Raises `DaemonProblem` for a certificate that cannot be used.

    Not urllib, because that uses proxies and follows redirects. A question to a daemon is for its address alone.
    """
    if address.scheme == "unix":
        return _UnixConnection(address.host, timeout_s=timeout_s)
    if address.scheme == "http":
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    context = ssl.create_default_context()
    if not address.checks_certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        try:
            context.load_cert_chain(certificate.file, certificate.key_file, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise bad_certificate(error) from error
    return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=context)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket at a path."""

    def __init__(self, path: str, *, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock
