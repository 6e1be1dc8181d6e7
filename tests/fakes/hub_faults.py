"""What can go wrong with an answer of the fake hub, as data.

A fault changes an `Answer` before it is sent; several may change one. Knows neither sockets nor repositories.
"""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import ClassVar, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from tests.fakes.hub_files import Body, Content

__all__ = (
    "KINDS",
    "REFUSALS",
    "Answer",
    "BadContentRange",
    "Chunked",
    "Corrupt",
    "Cut",
    "Drip",
    "Endless",
    "EtagChange",
    "Exchange",
    "Fault",
    "Gzip",
    "GzipBomb",
    "Moves",
    "NeverAnswers",
    "NoRange",
    "Page",
    "Redirect",
    "Says",
    "Stall",
    "Status",
    "WrongLength",
    "hostile_files",
    "parse_fault",
)


@dataclass(slots=True, eq=False)
class Exchange:
    """A request to the `hub` or its `cdn`, and what became of it so far.

    `status` is 0 until there is an answer. `sent_bytes` of the body have been sent or are just being sent.
    """

    origin: str
    method: str
    target: str
    headers: Message
    status: int = 0
    sent_bytes: int = 0

    @property
    def path(self) -> str:
        """The target unquoted and without its query."""
        return unquote(self.target.partition("?")[0])

    @property
    def authorization(self) -> str | None:
        return self.headers["Authorization"]

    @property
    def range(self) -> str | None:
        return self.headers["Range"]

    def __str__(self) -> str:
        notes = f"{f' {self.range}' if self.range else ''}{' with a token' if self.authorization else ''}"
        return f"{self.origin} {self.method} {self.target}{notes} -> {self.status}, {self.sent_bytes} bytes"


@dataclass(slots=True, eq=False)
class Answer:
    """What is to be sent. `body` may be a part of `whole`; `move_on` gives the repository's `main` another commit.

    The connection ends after `cut_after` bytes of the body. After `hold_after` bytes, or before the status line if
    that is negative, the answer waits for the hub's `release`. One that `is_endless` repeats its body for as long as
    somebody reads it.
    """

    asked: Exchange
    status: int = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = b""
    whole: Body = b""
    cut_after: int | None = None
    hold_after: int | None = None
    bytes_per_s: int | None = None
    is_endless: bool = False
    move_on: Callable[[], object] = lambda: None

    def read(self) -> bytes:
        """The body, in memory."""
        return self.body if isinstance(self.body, bytes) else self.body.read()


def _kind(class_name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


class Fault(Struct, frozen=True, array_like=True, tag=_kind):
    """Concerns every answer to a path like `where`, unless told otherwise."""

    where: ClassVar[str] = "*"

    def touches(self, answer: Answer) -> bool:  # noqa: ARG002 - kinds that look override this
        return True

    def spoil(self, answer: Answer) -> None:
        """What the fault does to an answer it touches."""
        raise NotImplementedError  # the base does no harm of its own; every kind says which


class Status(Fault, frozen=True):
    """Another status, these headers, and no more than a word."""

    status: int
    headers: Mapping[str, str] = {}

    def spoil(self, answer: Answer) -> None:
        answer.status, answer.headers = self.status, dict(self.headers)
        answer.body = b'{"error":"on demand"}'


class NeverAnswers(Fault, frozen=True):
    """Takes the request and says nothing, until released."""

    def spoil(self, answer: Answer) -> None:
        answer.hold_after = -1


class Moves(Fault, frozen=True):
    """Has `main` move on once it is listed: every file of its next commit holds other bytes."""

    where = "/api/*"

    def spoil(self, answer: Answer) -> None:
        answer.move_on()


class Says(Fault, frozen=True):
    """Says this instead of what a repository holds."""

    document: str
    where = "/api/*"

    def spoil(self, answer: Answer) -> None:
        answer.body = self.document.encode("utf-8", "surrogatepass")


class Page(Fault, frozen=True):
    """A status with a page of HTML of so many bytes."""

    status: int
    size: int

    def spoil(self, answer: Answer) -> None:
        answer.status, answer.headers = self.status, {"Content-Type": "text/html"}
        answer.body = (b"<html>\n   <body>\x1b[2J on demand " * (self.size // 30 + 1))[: self.size]


class Endless(Fault, frozen=True):
    """Lists files without an end."""

    where = "/api/*"

    def spoil(self, answer: Answer) -> None:
        answer.headers["Transfer-Encoding"] = "chunked"
        answer.body = b'{"rfilename": "another-one.bin", "size": 1},' * 1000
        answer.is_endless = True


class GzipBomb(Fault, frozen=True):
    """Sends so many bytes of nothing, compressed to a thousandth."""

    size: int
    where = "/api/*"

    def spoil(self, answer: Answer) -> None:
        answer.headers["Content-Encoding"] = "gzip"
        answer.body = gzip.compress(b" " * self.size, mtime=0)


class Redirect(Fault, frozen=True):
    """Sends the client elsewhere; `{path}` stands for the path asked for, so that `{path}` alone is a loop."""

    location: str
    where = "*/resolve/*"

    def spoil(self, answer: Answer) -> None:
        answer.status, answer.body = HTTPStatus.FOUND, b""
        answer.headers["Location"] = self.location.replace("{path}", quote(answer.asked.path))


class _BodyFault(Fault, frozen=True):
    """Concerns the bytes of files, whoever sends them: the hub or its CDN."""

    where = "*/resolve/*"

    def touches(self, answer: Answer) -> bool:
        return answer.asked.method == "GET" and answer.status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}


class Cut(_BodyFault, frozen=True):
    """Ends the connection after so many bytes of the body."""

    after_bytes: int

    def spoil(self, answer: Answer) -> None:
        answer.cut_after = self.after_bytes


class Stall(_BodyFault, frozen=True):
    """Sends nothing more after so many bytes of the body, until released."""

    after_bytes: int

    def spoil(self, answer: Answer) -> None:
        answer.hold_after = self.after_bytes


class Drip(_BodyFault, frozen=True):
    """Sends the body slowly."""

    bytes_per_s: int

    def spoil(self, answer: Answer) -> None:
        answer.bytes_per_s = self.bytes_per_s


class Corrupt(_BodyFault, frozen=True):
    """Sends as many bytes as there should be, the last one wrong."""

    def spoil(self, answer: Answer) -> None:
        body = answer.read()
        answer.body = body[:-1] + bytes(byte ^ 0xFF for byte in body[-1:])


class WrongLength(_BodyFault, frozen=True):
    """Sends a body so much longer, or shorter, than the file, with the Content-Length that belongs to it."""

    extra_bytes: int = 1

    def spoil(self, answer: Answer) -> None:
        body = answer.read()
        answer.body = body[: self.extra_bytes] if self.extra_bytes < 0 else body + bytes(self.extra_bytes)


class Gzip(_BodyFault, frozen=True):
    """Sends the body compressed, whatever the client accepts."""

    def spoil(self, answer: Answer) -> None:
        answer.headers["Content-Encoding"] = "gzip"
        answer.body = gzip.compress(answer.read(), mtime=0)


class Chunked(_BodyFault, frozen=True):
    """Sends the body as one chunk, without a Content-Length."""

    def spoil(self, answer: Answer) -> None:
        body = answer.read()
        answer.headers["Transfer-Encoding"] = "chunked"
        answer.body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


class EtagChange(_BodyFault, frozen=True):
    """Sends the bytes with another ETag than HEAD announced."""

    def spoil(self, answer: Answer) -> None:
        answer.headers |= dict.fromkeys(answer.headers.keys() & {"ETag", "X-Linked-Etag"}, f'"{"e" * 64}"')


class NoRange(_BodyFault, frozen=True):
    """Sends the whole file, whatever part was asked for."""

    def touches(self, answer: Answer) -> bool:
        return answer.asked.range is not None and bool(answer.whole)

    def spoil(self, answer: Answer) -> None:
        answer.status, answer.body = HTTPStatus.OK, answer.whole
        del answer.headers["Content-Range"]


class BadContentRange(_BodyFault, frozen=True):
    """Sends the part asked for, announced as one that begins a byte later."""

    def touches(self, answer: Answer) -> bool:
        return answer.status == HTTPStatus.PARTIAL_CONTENT

    def spoil(self, answer: Answer) -> None:
        first, _, rest = answer.headers["Content-Range"].removeprefix("bytes ").partition("-")
        answer.headers["Content-Range"] = f"bytes {int(first) + 1}-{rest}"


REFUSALS: Final[Mapping[str, Status]] = {
    "gated": Status(403, {"X-Error-Code": "GatedRepo"}),
    "no_file": Status(404, {"X-Error-Code": "EntryNotFound"}),
    "no_repository": Status(404, {"X-Error-Code": "RepoNotFound"}),
    "no_revision": Status(404, {"X-Error-Code": "RevisionNotFound"}),
    "no_token": Status(401, {"X-Error-Code": "RepoNotFound"}),
}
"""What a hub says no with."""

_AnyFault = (
    BadContentRange | Chunked | Corrupt | Cut | Drip | Endless | EtagChange | Gzip | GzipBomb | Moves | NeverAnswers
    | NoRange | Page | Redirect | Says | Stall | WrongLength
)  # fmt: skip

KINDS: Final[Mapping[str, type[Fault]]] = {_kind(kind.__name__): kind for kind in _AnyFault.__args__}
"""The faults that have a name of their own."""


def parse_fault(text: str) -> Fault:
    """Read a status with or without the seconds of its Retry-After, or a name with its argument: `429:60`, `cut:1000`.

    Names are those of `KINDS` and `REFUSALS`. Raises `ValueError`.
    """
    name, colon, argument = text.partition(":")
    if name.isdecimal():
        return Status(int(name), {"Retry-After": argument} if colon else {})
    if name in REFUSALS:
        return REFUSALS[name]
    fault: Fault = msgspec.convert([name, argument] if colon else [name], _AnyFault, strict=False)
    return fault


def hostile_files() -> dict[str, Content]:
    """Files of a repository that no client should trust: some would climb, one is too long, the rest too many."""
    climbing = ["../../x.gguf", "/x.gguf", "a/../../x.gguf", "..\\x.gguf", "C:x.gguf", "a//x.gguf", "."]
    return dict.fromkeys([*climbing, f"{'x' * 300}.gguf", *(f"{i:04}.bin" for i in range(5000))], b"hostile")
