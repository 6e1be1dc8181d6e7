"""Checks where a request begins and ends, where uvicorn's parser does not. Pure: bytes in, decisions out."""

from collections.abc import Iterable
from typing import Final

from neuron_lib.shown import clip

__all__ = ("RequestLine", "fault_of_head", "without_upgrade")

_VERSIONS: Final = frozenset({"1.0", "1.1"})


class RequestLine:
    """The first line of the request that is arriving, as far as it is known. The parser does not keep it."""

    def __init__(self) -> None:
        self._line = b""

    def feed(self, data: bytes) -> None:
        """Take what arrived, until the line is complete. Empty lines before a request are no part of it."""
        if b"\n" not in self._line:
            line, newline, _ = (self._line + data).lstrip(b"\r\n").partition(b"\n")
            self._line = line + newline

    @property
    def names_other_protocol(self) -> bool:
        """Whether the line ends with another protocol than HTTP. The parser also reads RTSP/1.0 and ICE/1.0.

        If a request began in the middle of a read, its line is not known. Then it counts as HTTP.
        """
        return bool(self._line) and not self._line.rstrip().rpartition(b" ")[2].startswith(b"HTTP/")


def fault_of_head(line: RequestLine, *, version: str, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Why a request cannot be read although the parser accepts its head; None if it can.

    `version` is the parser's, such as "1.1". Names of `headers` are in lower case.
    """
    if version not in _VERSIONS or line.names_other_protocol:
        return "Only HTTP/1.0 and HTTP/1.1 are spoken here."
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding").decode("latin-1")
    if not codings or (codings.strip().lower() == "chunked" and version == "1.1"):
        return None
    return f"The body is sent as {clip(codings)!r}, and only chunks of HTTP/1.1 are understood."


def without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request, written again without the request for another protocol.

    The parser does not read the body of a request that asks for another protocol. A server may ignore that (Java's own
    client asks for HTTP/2 each time). So the request is parsed a second time without it.
    """
    head = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            head.append(b"connection: " + b", ".join(option for option in options if option == b"close"))
        elif name != b"upgrade":
            head.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*head, b"", b""])
