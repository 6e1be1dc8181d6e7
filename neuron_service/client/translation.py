"""What went wrong between a program and a daemon, in words: one sentence, and an exit status of sysexits.h."""

import os
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Final

from neuron_service.client.address import Address
from neuron_service.client.problem import DaemonProblem

__all__ = (
    "NOT_NEURON",
    "bad_certificate",
    "broken",
    "from_answer",
    "lacking",
    "no_connection",
    "not_neuron",
    "not_utf8",
)

NOT_NEURON: Final = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
"""What reading an answer raises that is not one of a neuron."""

_LONGEST_MESSAGE: Final = 1000
_STATUSES: Final[Mapping[int, int]] = {
    401: os.EX_NOPERM,
    403: os.EX_NOPERM,
    408: os.EX_TEMPFAIL,
    429: os.EX_TEMPFAIL,
    502: os.EX_TEMPFAIL,
    503: os.EX_TEMPFAIL,
    504: os.EX_TEMPFAIL,
}
"""The exit status for a status of HTTP. Any other of 500 and above is a fault of the daemon."""


def no_connection(address: Address, error: OSError) -> DaemonProblem:
    """Nothing could be reached at the address."""
    match error:
        case ConnectionRefusedError() | FileNotFoundError():
            start = "start one with `neuron serve`, or name another with --host or NEURON_HOST"
            return DaemonProblem(f"no neuron listens at {address}; {start}", exit_status=os.EX_UNAVAILABLE)
        case TimeoutError():
            again = "look whether the host is up, or try again"
            return DaemonProblem(f"{address} did not answer in time; {again}", exit_status=os.EX_TEMPFAIL)
        case PermissionError():
            group = "become a member of the group of the socket, or use another address"
            return DaemonProblem(f"this user may not open {address}; {group}", exit_status=os.EX_NOPERM)
        case ssl.SSLError():
            return _no_tls(address, error)
        case socket.gaierror():
            spelling = "look at the spelling, or use its address"
            return DaemonProblem(f"no host is called {address.host!r}; {spelling}", exit_status=os.EX_NOHOST)
        case _:
            reason = error.strerror or str(error) or repr(error)
            return DaemonProblem(f"{address} cannot be reached: {reason}", exit_status=os.EX_UNAVAILABLE)


def _no_tls(address: Address, error: ssl.SSLError) -> DaemonProblem:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"{error.verify_message}; name the file of its authority in SSL_CERT_FILE"
        return DaemonProblem(f"no trust in the certificate of {address}: {reason}", exit_status=os.EX_UNAVAILABLE)
    reason = (error.reason or "unknown").lower().replace("_", " ")
    look = "look whether the service speaks TLS, and name a certificate in NEURON_CLIENT_CERT if it wants one"
    return DaemonProblem(f"no TLS with {address}: {reason}; {look}", exit_status=os.EX_UNAVAILABLE)


def bad_certificate(error: OSError | ValueError) -> DaemonProblem:
    """The certificate of this client cannot be used."""
    reason = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "no certificate in PEM").lower().replace("_", " ")
    return DaemonProblem(
        f"the certificate in NEURON_CLIENT_CERT cannot be used: {reason or error}; name a file in PEM, and that of its "
        "key in NEURON_CLIENT_KEY",
        exit_status=os.EX_CONFIG,
    )


def broken(address: Address) -> DaemonProblem:
    """The connection ended in the middle of an answer."""
    # With TLS 1.3 a service misses the certificate of its client only after the client's side of the handshake.
    certificate = ", or name a certificate in NEURON_CLIENT_CERT if it wants one" if address.scheme == "https" else ""
    return DaemonProblem(
        f"{address} ended the connection before its answer was whole; try again{certificate}",
        exit_status=os.EX_TEMPFAIL,
    )


def not_neuron(address: Address, reason: str) -> DaemonProblem:
    """Something answers that does not speak as neuron does."""
    return DaemonProblem(
        f"what answers at {address} is not neuron ({reason}); look at --host and NEURON_HOST",
        exit_status=os.EX_PROTOCOL,
    )


def lacking(address: Address, error: Exception) -> DaemonProblem:
    """An answer is not as those of a neuron. `error` is one of `NOT_NEURON`, which reading the answer raised."""
    return not_neuron(
        address, f"its answer lacks {error}" if isinstance(error, KeyError) else "its answer has another form"
    )


def not_utf8(error: UnicodeEncodeError) -> DaemonProblem:
    """A request has a text that cannot be sent."""
    text = error.object[max(0, error.start - 20) : error.start + 20]
    return DaemonProblem(f"{text!r} is no UTF-8, so no daemon can be sent it", exit_status=os.EX_USAGE)


def from_answer(address: Address, status: int, body: Any, *, has_key: bool) -> DaemonProblem:
    """The daemon has refused a request. `body` is its answer as JSON, None if it was no JSON."""
    message, code = _said(body)
    if status == 401:
        message = (
            f"{address} does not know the key in NEURON_API_KEY; ask its owner for another"
            if has_key
            else f"{address} wants an API key; put one into NEURON_API_KEY"
        )
    elif message is None:
        message = f"{address} answered with status {status} and did not say why"
    exit_status = _STATUSES.get(status, os.EX_SOFTWARE if status >= 500 else 1)
    return DaemonProblem(message, exit_status=exit_status, status=status, code=code)


def _said(body: Any) -> tuple[str | None, str | None]:
    """The message and the code of an error in any of the shapes that a daemon uses."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return _clean(error), _text(body.get("code"))
    if isinstance(error, dict):
        code = _text(error.get("code")) or _text(error.get("kind")) or _text(error.get("type"))
        return _clean(error.get("message")), code
    return None, None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _clean(value: Any) -> str | None:
    """A message that fits into one line of a terminal and can move no cursor. None for anything but text."""
    if not isinstance(value, str) or not value.strip():
        return None
    line = " ".join(value.split())
    return "".join(each if each.isprintable() else "?" for each in line)[:_LONGEST_MESSAGE]
