"""Bounds what a chat template may make. Each operation is checked before it runs, and the memory of all together is
watched.

Knows values and that templates call methods, filters and operators. Knows nothing else of templates.
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
"""The most characters of one text that a template makes."""
MAX_ITEMS: Final = 2 << 20
"""The most items of one list that a template makes."""
_MAX_INSIDE: Final = 1 << 20
"""The most items, at all levels, inside a value that is written or compared."""
_MAX_PRODUCT_ITEMS: Final = 1 << 20
_MAX_GROWTH_BYTES: Final = 512 << 20
"""How much the memory of this process may grow during a rendering, beyond the most that it had before."""
_LOOK_AFTER_BYTES: Final = 16 << 20
"""After the template has made this much, the memory of the process is read."""
_MAX_NUMBER_BITS: Final = 4096
_MAX_DIGITS: Final = 4096
_MAX_PRECISION: Final = 100
_BYTES_OF_A_PIECE: Final = 64
"""Estimated bytes of an item of a list, without the text itself. Also the assumed length of a value without text."""

_WIDE_PERCENT: Final = re.compile(r"%(\([^)]*\))?[#0\- +]*(\*|\d{4,}|\d*\.(\*|\d{4,}))")
_WIDE_BRACE: Final = re.compile(r":[^{}]*(\d{4,}|\{)")


class TooLarge(Exception):
    """A template makes too much of its input."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the template computes something too large with {what}")


class Allowance:
    """The memory that one rendering may take. Lives as long as the rendering.

    A template drops most of what it makes at once. So the growth of the process counts, and not the sum of all values.
    """

    __slots__ = ("_most_before", "_unseen")

    def __init__(self) -> None:
        self._most_before = _most_resident_bytes()
        self._unseen = 0

    def take(self, size: int) -> None:
        """Count `size` bytes that the template makes. Raises `TooLarge` once the process has grown too much."""
        self._unseen += size
        if self._unseen < _LOOK_AFTER_BYTES:
            return
        self._unseen = 0
        if _most_resident_bytes() - self._most_before > _MAX_GROWTH_BYTES:
            raise TooLarge("the values that it keeps")


def _most_resident_bytes() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


_allowance: Final[ContextVar[Allowance | None]] = ContextVar("allowance", default=None)


@contextmanager
def spending(allowance: Allowance) -> Iterator[None]:
    """Values that templates make within the block count for `allowance`."""
    token = _allowance.set(allowance)
    try:
        yield
    finally:
        _allowance.reset(token)


def weigh(value: object, *, what: str = "a value", chars_per_level: int = 0) -> None:
    """Raise `TooLarge` if `value` is too large to be written or compared. Every occurrence of an inner value counts.

    `chars_per_level` is the number of characters that an item costs for each level that it is below the top.
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
    """Return `value` after its size was taken from the allowance of this rendering. Raises `TooLarge`."""
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
    """The approximate length of all pieces together, in characters."""
    return sum(len(piece) if isinstance(piece, str) else _BYTES_OF_A_PIECE for piece in pieces)


def is_affordable(operator: str, left: object, right: object) -> bool:
    """Whether the result of an intercepted operator has an acceptable size."""
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
    """Raise `TooLarge` for a `str.format` whose result would be too large."""
    _check_fields(pattern, _WIDE_BRACE, "{", values)


def _check_fields(pattern: str, too_wide: re.Pattern[str], opener: str, values: object) -> None:
    """Raise `TooLarge` if a width in `pattern`, or all `values` together, would make a too large text."""
    weigh(values, what="a format")
    longest = joined_chars(_leaves(values))
    if too_wide.search(pattern) or len(pattern) + pattern.count(opener) * longest > MAX_TEXT_CHARS:
        raise TooLarge("a format")


def _leaves(values: object) -> Iterator[object]:
    """The values inside lists and objects. Keys count as values."""
    if isinstance(values, Mapping):
        yield from values
        values = tuple(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from _leaves(value)
    else:
        yield values


def check_width(_text: str, width: object = 0, *_rest: object, **_named: object) -> None:
    """Raise `TooLarge` for a padding that no template needs."""
    if isinstance(width, int) and width > _MAX_PRODUCT_ITEMS:
        raise TooLarge("a width")


def check_tabs(text: str, tabsize: object = 8) -> None:
    """Raise `TooLarge` if tabs become too many spaces."""
    if isinstance(tabsize, int) and text.count("\t") * tabsize > MAX_TEXT_CHARS:
        raise TooLarge("tabs")


def check_replacement(text: str, old: object = "", new: object = "", count: object = -1) -> None:
    """Raise `TooLarge` if replacing `old` by `new` makes the text too long."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return
    times = text.count(old)
    if isinstance(count, int) and count >= 0:
        times = min(times, count)
    if len(text) + times * (len(new) - len(old)) > MAX_TEXT_CHARS:
        raise TooLarge("a replacement")


def check_join(separator: str, pieces: object = ()) -> None:
    """Raise `TooLarge` if the joined text is too long."""
    if isinstance(pieces, Collection) and joined_chars(pieces) + len(pieces) * len(separator) > MAX_TEXT_CHARS:
        raise TooLarge("join")


def check_indent(s: object, width: object = 4, *_rest: object, **_named: object) -> None:
    """Raise `TooLarge` if the text is too long with its indent."""
    columns = len(width) if isinstance(width, str) else width
    if isinstance(s, str) and isinstance(columns, int) and len(s) + (s.count("\n") + 2) * columns > MAX_TEXT_CHARS:
        raise TooLarge("indent")


def check_group(_value: object, linecount: object = 0, fill_with: object = None, slices: object = 0) -> None:
    """Raise `TooLarge` for groups that are filled up with too many items."""
    del fill_with
    if any(isinstance(size, int) and size > _MAX_PRODUCT_ITEMS for size in (linecount, slices)):
        raise TooLarge("batch or slice")


def check_precision(_value: object, precision: object = 0, method: object = "") -> None:
    """Raise `TooLarge` for more digits than a number has: the power of ten for them may take very long."""
    del method
    if isinstance(precision, int) and abs(precision) > _MAX_PRECISION:
        raise TooLarge("round")


def check_number(value: object, default: object = 0, base: object = 10) -> None:
    """Raise `TooLarge` for a number of too many digits."""
    del default
    if isinstance(value, str) and base != 10 and len(value) > _MAX_DIGITS:
        raise TooLarge("int")


def check_start(_iterable: object, attribute: object = None, start: object = 0) -> None:
    """Raise `TooLarge` for a sum of anything but numbers: each addition of lists copies the whole list."""
    del attribute
    if not isinstance(start, int | float):
        raise TooLarge("sum: it adds up numbers only")
