"""Makes text of others fit for an error or a log: one line, short, and without our token. Pure."""

import base64
import html
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, quote_plus

__all__ = ("Redaction", "one_line")

_LONGEST: Final = 200
_SHORTEST_TO_ENCODE: Final = 8
"""Characters. The encodings of a shorter token would be found in ordinary words."""
_QUERY: Final = re.compile(r"\?[^\s'\"<>)]+")
_USER_INFO: Final = re.compile(r"://[^\s/@'\"<>]*@")


def one_line(text: str, *, limit: int = _LONGEST) -> str:
    """`text` in one line of at most `limit` printable characters. A text that was cut ends in `…`."""
    start = " ".join(text[: 20 * limit].split())  # HTML pages begin with much white space
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in start)
    return shown if len(shown) <= limit and len(text) <= 20 * limit else f"{shown[: limit - 1]}…"


class Redaction:
    """Removes a secret from texts, in every spelling in which errors of other libraries may show it.

    It also removes the queries of addresses, which may contain a signature, and users and passwords in addresses.
    """

    def __init__(self, secret: str | None) -> None:
        spellings = {spelling for spelling in _spellings(secret or "") if spelling}
        # The longest first. Otherwise a part of it would be left.
        alternatives = "|".join(map(re.escape, sorted(spellings, key=len, reverse=True)))
        self._secret: Final = re.compile(alternatives, re.IGNORECASE) if alternatives else None

    def __repr__(self) -> str:
        return "<Redaction>"

    def __call__(self, text: str) -> str:
        """`text` without the secret."""
        if self._secret is not None:
            text = self._secret.sub("…", text)
        return _USER_INFO.sub("://…@", _QUERY.sub("?…", text))


def _spellings(secret: str) -> Iterator[str]:
    for text in {secret, secret.strip()}:
        yield text
        yield repr(text)[1:-1]
        yield ascii(text)[1:-1]
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield html.escape(text)
        raw = text.encode("utf-8", "surrogatepass")
        yield repr(raw)[2:-1]
        yield quote(raw)
        yield quote(raw, safe="")
        yield quote_plus(raw)
        if len(raw) >= _SHORTEST_TO_ENCODE:
            yield raw.hex()
            yield from _base64_spellings(raw)


def _base64_spellings(raw: bytes) -> Iterator[str]:
    """The characters of the secret in base64 that do not depend on its neighbours, for each position in a group of
    three bytes.
    """
    for skipped in range(3):
        encoded = base64.b64encode(bytes(skipped) + raw)
        first = -(-skipped * 4 // 3)
        last = (skipped + len(raw)) * 4 // 3
        yield encoded[first:last].decode()
        yield encoded[first:last].translate(bytes.maketrans(b"+/", b"-_")).decode()
