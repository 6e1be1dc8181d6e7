"""How much a chat template may make: each operation is checked before it runs, the memory of all watched.

Knows values, and nothing of templates but that they call methods, filters and operators.
"""

import re
import resource
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

__all__ = (
    "MAX_ITEMS",
    "MAX_TEXT_CHARS",
    "Allowance",
    "TooLarge",
    "charge",
    "check_format",
    "check_group",
    "check_indent",
    "check_join",
    "check_number",
    "check_precision",
    "check_replacement",
    "check_start",
    "check_tabs",
    "check_width",
    "is_affordable",
    "joined_chars",
    "spending",
    "weigh",
)

MAX_TEXT_CHARS: Final = 8 << 20
"""Of one text that a template makes."""
MAX_ITEMS: Final = 2 << 20
"""Of one list that a template makes."""
_MAX_INSIDE: Final = 1 << 20
"""Items inside a value that is written or compared, at all levels."""
_MAX_PRODUCT_ITEMS: Final = 1 << 20
_MAX_GROWTH_BYTES: Final = 512 << 20
"""Of the memory of this process while it renders, beyond the most that it had before."""
_LOOK_AFTER_BYTES: Final = 16 << 20
"""Made by the template, after which the memory is looked at."""
_MAX_NUMBER_BITS: Final = 4096
_MAX_DIGITS: Final = 4096
_MAX_PRECISION: Final = 100
_BYTES_OF_A_PIECE: Final = 64
"""Of what a list holds, beside the text itself; also the length assumed for what is no text."""

_WIDE_PERCENT: Final = re.compile(r"%(\([^)]*\))?[#0\- +]*(\*|\d{4,}|\d*\.(\*|\d{4,}))")
_WIDE_BRACE: Final = re.compile(r":[^{}]*(\d{4,}|\{)")


class TooLarge(Exception):
    """A template makes too much out of what it has."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the template computes something too large with {what}")


class Allowance:
    """The memory that one rendering may take; lives as long as that.

    Most of what a template makes it drops at once, so what counts is how much this process grows meanwhile.
    """

    __slots__ = ("_most_before", "_unseen")

    def __init__(self) -> None:
        self._most_before = _most_resident_bytes()
        self._unseen = 0

    def take(self, size: int) -> None:
        """Count `size` bytes that the template makes. Raises `TooLarge` once it has filled too much memory."""
        self._unseen += size
        if self._unseen < _LOOK_AFTER_BYTES:
            return
        self._unseen = 0
        if _most_resident_bytes() - self._most_before > _MAX_GROWTH_BYTES:
            raise TooLarge("all that it keeps")


def _most_resident_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


_allowance: Final[ContextVar[Allowance | None]] = ContextVar("allowance", default=None)


@contextmanager
def spending(allowance: Allowance) -> Iterator[None]:
    """What templates make within the block is taken from `allowance`."""
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


def weigh(value: object, *, what: str = "a value", chars_per_level: int = 0) -> None:
    """Raise if `value` is too much to be written or compared, with everything inside it counted each time it is there.

    `chars_per_level` is what writing an item costs for each level that it is below the top.
    """
    if isinstance(value, str) or not isinstance(value, Collection):
        return
    items = chars = 0
    waiting: list[tuple[object, int]] = [(value, 0)]
    while waiting:
        node, level = waiting.pop()
        if isinstance(node, str):
            chars += len(node)
            continue
        if not isinstance(node, Collection):
            continue
        items += len(node) * (2 if isinstance(node, Mapping) else 1)
        chars += chars_per_level * (level + 1) * len(node)
        if items > _MAX_INSIDE or chars > MAX_TEXT_CHARS:
            raise TooLarge(what)
        inside: Iterable[object] = (*node, *node.values()) if isinstance(node, Mapping) else node
        waiting.extend((item, level + 1) for item in inside)
    if chars > MAX_TEXT_CHARS:
        raise TooLarge(what)


def charge(value: Any) -> Any:
    """`value`, after its size is taken from the allowance of this rendering."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS:
            raise TooLarge("a text")
    elif isinstance(value, list | tuple | dict):
        if len(value) > MAX_ITEMS:
            raise TooLarge("a list")
    else:
        return value
    allowance = _allowance.get()
    if allowance is not None:
        inside = 0 if isinstance(value, str) else len(value) * _BYTES_OF_A_PIECE
        allowance.take(sys.getsizeof(value) + inside)
    return value


def joined_chars(pieces: Iterable[object]) -> int:
    """About how long the pieces are together."""
    return sum(len(piece) if isinstance(piece, str) else _BYTES_OF_A_PIECE for piece in pieces)


def is_affordable(operator: str, left: object, right: object) -> bool:
    """Whether the result of an intercepted operator has a harmless size."""
    match operator, left, right:
        case "%", str(), _:
            _check_fields(left, _WIDE_PERCENT, "%", right)
        case "*" | "**", int(), int():
            bits = left.bit_length()
            return (bits + right.bit_length() if operator == "*" else bits * right) <= _MAX_NUMBER_BITS
        case ("*", (str() | list() | tuple()) as items, int(times)) | (
            "*",
            int(times),
            (str() | list() | tuple()) as items,
        ):
            return len(items) * times <= _MAX_PRODUCT_ITEMS
        case _:
            pass
    return True


def check_format(pattern: str, values: object) -> None:
    """Refuse what `str.format` would make too much of."""
    _check_fields(pattern, _WIDE_BRACE, "{", values)


def _check_fields(pattern: str, too_wide: re.Pattern[str], opener: str, values: object) -> None:
    """Refuse to fill `values` into `pattern` where a width, or all fields together, make too much of it."""
    weigh(values, what="a format")
    longest = joined_chars(_leaves(values))
    if too_wide.search(pattern) or len(pattern) + pattern.count(opener) * longest > MAX_TEXT_CHARS:
        raise TooLarge("a format")


def _leaves(values: object) -> Iterator[object]:
    """The values inside lists and objects; keys count as values."""
    if isinstance(values, Mapping):
        yield from values
        values = tuple(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def check_width(_text: str, width: object = 0, *_rest: object, **_named: object) -> None:
    """Refuse a text padded to more than a template can need."""
    if isinstance(width, int) and width > _MAX_PRODUCT_ITEMS:
        raise TooLarge("a width")


def check_tabs(text: str, tabsize: object = 8) -> None:
    """Refuse tabs that become too many spaces."""
    if isinstance(tabsize, int) and text.count("\t") * tabsize > MAX_TEXT_CHARS:
        raise TooLarge("tabs")


def check_replacement(text: str, old: object = "", new: object = "", count: object = -1) -> None:
    """Refuse replacing `old` by `new` where the text grows too much."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return
    times = text.count(old)
    if isinstance(count, int) and count >= 0:
        times = min(times, count)
    if len(text) + times * (len(new) - len(old)) > MAX_TEXT_CHARS:
        raise TooLarge("a replacement")


def check_join(separator: str, pieces: object = ()) -> None:
    """Refuse a text of all pieces that is too long."""
    if isinstance(pieces, Collection) and joined_chars(pieces) + len(pieces) * len(separator) > MAX_TEXT_CHARS:
        raise TooLarge("join")


def check_indent(s: object, width: object = 4, *_rest: object, **_named: object) -> None:
    """Refuse lines that are too long with their indent."""
    columns = len(width) if isinstance(width, str) else width
    if isinstance(s, str) and isinstance(columns, int) and len(s) + (s.count("\n") + 2) * columns > MAX_TEXT_CHARS:
        raise TooLarge("indent")


def check_group(_value: object, linecount: object = 0, fill_with: object = None, slices: object = 0) -> None:
    """Refuse groups that are filled up with too many items."""
    del fill_with
    if any(isinstance(size, int) and size > _MAX_PRODUCT_ITEMS for size in (linecount, slices)):
        raise TooLarge("batch or slice")


def check_precision(_value: object, precision: object = 0, method: object = "") -> None:
    """Refuse digits beyond those that a number has: their power of ten may take for ever."""
    del method
    if isinstance(precision, int) and abs(precision) > _MAX_PRECISION:
        raise TooLarge("round")


def check_number(value: object, default: object = 0, base: object = 10) -> None:
    """Refuse a number of too many digits."""
    del default
    if isinstance(value, str) and base != 10 and len(value) > _MAX_DIGITS:
        raise TooLarge("int")


def check_start(_iterable: object, attribute: object = None, start: object = 0) -> None:
    """Refuse sums of anything but numbers: lists are copied with every one that is added."""
    del attribute
    if not isinstance(start, int | float):
        raise TooLarge("sum: it adds up numbers only")
