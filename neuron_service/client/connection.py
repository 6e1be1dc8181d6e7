"""One HTTP connection to an address."""

import http.client
import socket
import ssl

from neuron_service.client.address import Address

__all__ = ("open_connection",)


def open_connection(address: Address, *, timeout_s: float) -> http.client.HTTPConnection:
    """A connection that is not open yet. Each wait of it is at most `timeout_s` long.

    Not urllib, because that uses proxies and follows redirects. A question to a daemon is for its address alone.
    """
    if address.scheme == "unix":
        return _UnixConnection(address.host, timeout_s=timeout_s)
    if address.scheme == "http":
        return http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    context = ssl.create_default_context()
    if not address.checks_certificate:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(address.host, address.port, timeout=timeout_s, context=context)


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
