"""Makes text of unknown origin safe to show: cut to a length, and without characters that steer a terminal. Pure.

Errors and log lines quote texts of clients, hubs, files and other libraries. All of these texts are cut here.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

__all__ = (
    "CHAIN_FIELD",
    "LONGEST_CHAIN",
    "LONGEST_MESSAGE",
    "LONGEST_QUOTE",
    "LONGEST_WORD",
    "bounded",
    "brief",
    "clip",
    "fields_line",
    "one_word",
    "printable",
)

LONGEST_QUOTE: Final = 200
"""The most characters of one foreign string that a message, a field or a log line shows."""
LONGEST_MESSAGE: Final = 1000
"""The most characters of one whole message."""
LONGEST_CHAIN: Final = 2000
"""The most characters of a message and its causes, and of one log message."""
LONGEST_WORD: Final = 128
"""The most characters of an id that a client or a program has chosen for its request."""
CHAIN_FIELD: Final = "reason"
"""The log field that holds a chain of causes. Each cause in it is bounded already, so the field may be longer."""

_MOST_CHARACTERS: Final = 6000
"""The most characters of a list or a mapping. The names of hundreds of files fit."""
_SEPARATOR: Final = 2
_DEEPEST: Final = 3
_LARGEST_INT_BITS: Final = 128


def clip(text: str, limit: int = LONGEST_QUOTE) -> str:
    """`text`, or its first `limit` characters followed by `…` and its length if it is longer.

    A lone surrogate, which a file name that is not UTF-8 has, is spelled out: JSON and HTML cannot have it.
    """
    shown = text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
    return shown if shown.isascii() else shown.encode("utf-8", "backslashreplace").decode()


def bounded(value: Any, *, depth: int = _DEEPEST) -> Any:
    """The value of an error's field, small enough for a log and an answer.

    Each string is clipped. Each list and each mapping keeps its first entries. A value that is nested too deeply
    becomes `…`. A small value keeps its type. An integer of hundreds of digits becomes a string.
    """
    match value:
        case str():
            return clip(value)
        case None | bool() | float():
            return value
        case int():
            bits = value.bit_length()
            return value if bits <= _LARGEST_INT_BITS else f"an integer of {bits} bits"
        case dict():
            return _first_entries(value, depth=depth - 1) if depth else "…"
        case list() | tuple():
            return _first_items(value, depth=depth - 1) if depth else "…"
        case _:
            return clip(str(value))


def brief(value: object) -> str:
    """`repr(value)`, clipped. Only the first items of a long list are read."""
    return clip(repr(bounded(value)))


def printable(text: str) -> str:
    """`text` with each control character, line separator, direction mark and lone surrogate spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _spelled(char) for char in text)


def one_word(text: str) -> str:
    """The first `LONGEST_WORD` characters of `text`, with `_` for each that is no visible ASCII character."""
    return "".join(char if "!" <= char <= "~" else "_" for char in text[:LONGEST_WORD])


def fields_line(fields: Mapping[str, object]) -> str:
    """The fields as `key=value key="another value"`. A value is quoted if its end would not be clear otherwise."""
    return " ".join(
        f"{printable(clip(name))}={_quoted(value, LONGEST_CHAIN if name == CHAIN_FIELD else LONGEST_QUOTE)}"
        for name, value in fields.items()
    )


def _first_items(items: list[Any] | tuple[Any, ...], *, depth: int) -> list[Any] | tuple[Any, ...]:
    kept: list[Any] = []
    room = _MOST_CHARACTERS
    for item in items:
        small = bounded(item, depth=depth)
        room -= len(str(small)) + _SEPARATOR
        if room < 0:
            kept.append(f"… ({len(items)} in all)")
            break
        kept.append(small)
    return tuple(kept) if isinstance(items, tuple) else kept


def _first_entries(entries: dict[Any, Any], *, depth: int) -> dict[Any, Any]:
    kept: dict[Any, Any] = {}
    room = _MOST_CHARACTERS
    for key, entry in entries.items():
        name, small = bounded(key, depth=0), bounded(entry, depth=depth)
        room -= len(str(name)) + len(str(small)) + _SEPARATOR
        if room < 0:
            kept["…"] = f"{len(entries)} in all"
            break
        kept[name] = small
    return kept


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _quoted(value: object, limit: int) -> str:
    text = clip(value if isinstance(value, str) else str(bounded(value)), limit)
    plain = text and not set(text) & set(' "=')
    return printable(text) if plain else printable(json.dumps(text, ensure_ascii=False))
