"""Blocks that are read from left to right, by a function that knows how a family writes its calls.

The function reads a text that may not be complete. It stops with `MoreNeeded` where it cannot go on without guessing
what comes next. So its result does not depend on how a reply is cut into pieces.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from neuron_lib.text.formats.blocks import BlockEnd
from neuron_lib.text.formats.json_calls import ends_inside_value, parse_tool_calls
from neuron_lib.text.formats.tool_format import ParsedCall, Tools
from neuron_lib.text.formats.values import as_json

__all__ = ("LONGEST_NAME", "Cursor", "MoreNeeded", "NoCall", "Scan", "ScanBlock", "called", "scan_json")

LONGEST_NAME: Final = 256
"""Characters of the longest name of a function or a parameter that is read."""

_MOST_INSIDE: Final = 4
"""The most closing texts in one block that are taken for a part of a value. For each the block is parsed once more."""

_SPACE: Final = re.compile(r"\s*")


class MoreNeeded(Exception):
    """The text ends before it is certain what it says. It stays uncertain as long as no text with `wake` comes."""

    def __init__(self, wake: str = "") -> None:
        super().__init__(wake)
        self.wake: Final = wake


class NoCall(Exception):
    """The text is no call."""


class Cursor:
    """A place in a text that is read from left to right. Lives as long as one attempt to read it.

    `is_end` says that no more text comes. Otherwise every method raises `MoreNeeded` if more text could change its
    answer. With `forgives` missing closing tags may be forgiven at the end of the text. `passed` is for the scan: for
    the beginning of a value it keeps the place up to which earlier attempts have found no end of the value.
    """

    __slots__ = ("at", "forgives", "is_end", "passed", "text")

    def __init__(
        self, text: str, *, is_end: bool, forgives: bool = False, passed: dict[int, int] | None = None
    ) -> None:
        self.text: Final = text
        self.passed: Final[dict[int, int]] = {} if passed is None else passed
        self.at: int = 0
        self.is_end: Final = is_end
        self.forgives: Final = forgives

    @property
    def is_over(self) -> bool:
        """Whether the text is over here, which may be forgiven."""
        if self.at < len(self.text):
            return False
        return self._at_end() and self.forgives

    def sees(self, *tags: str) -> str:
        """The longest one of `tags` that stands here, or the empty text."""
        rest = len(self.text) - self.at
        for tag in sorted(tags, key=len, reverse=True):
            if self.text.startswith(tag, self.at):
                return tag
            if rest < len(tag) and not self.is_end and tag.startswith(self.text[self.at :]):
                raise MoreNeeded
        return ""

    def takes(self, *tags: str) -> bool:
        """Whether one of `tags` stands here. Then the place is behind it."""
        tag = self.sees(*tags)
        self.at += len(tag)
        return bool(tag)

    def needs(self, *tags: str) -> None:
        """Go behind one of `tags`. Raises `NoCall` if none stands here."""
        if not self.takes(*tags):
            raise NoCall

    def skip_space(self) -> None:
        """Go to the next character that is no white space."""
        match = _SPACE.match(self.text, self.at)
        self.at = self.at if match is None else match.end()
        if self.at == len(self.text):
            self._at_end()

    def run(self, pattern: re.Pattern[str]) -> str:
        """The longest text here that `pattern` matches. Each beginning of a match must be a match too."""
        match = pattern.match(self.text, self.at)
        found = "" if match is None else match[0]
        if self.at + len(found) == len(self.text):
            self._at_end()
        self.at += len(found)
        return found

    def until(self, tag: str) -> str:
        """The text up to `tag`. The place is behind the tag then. Raises `NoCall` if the tag never comes."""
        found = self.text.find(tag, self.at)
        if found < 0:
            self._at_end(wake=tag[-1])
            raise NoCall
        before = self.text[self.at : found]
        self.at = found + len(tag)
        return before

    def until_any(self, *tags: str) -> tuple[str, str]:
        """The text up to the first of `tags`, and that tag. The place is behind the text.

        If none comes, the text is everything up to the end, which must be forgiven, and the tag is empty.
        """
        found = min(((at, tag) for tag in tags if (at := self.text.find(tag, self.at)) >= 0), default=None)
        if found is None:
            self._at_end(wake=tags[0][-1] if len({tag[-1] for tag in tags}) == 1 else "")
            if not self.forgives:
                raise NoCall
            found = len(self.text), ""
        before = self.text[self.at : found[0]]
        self.at = found[0]
        return before, found[1]

    def near_until(self, tag: str) -> str:
        """The text up to `tag`, which must not be far away: the rest of an opening tag. The place is behind `tag`."""
        end = self.at + LONGEST_NAME
        found = self.text.find(tag, self.at, end)
        if found < 0:
            if len(self.text) < end:
                self._at_end()
            raise NoCall
        before = self.text[self.at : found]
        self.at = found + len(tag)
        return before

    def line_until(self, tag: str) -> str:
        """The text up to `tag`, which must be in this line and not far away. The place is behind `tag`."""
        line = self.text[self.at : self.at + LONGEST_NAME].partition("\n")
        if line[1] and tag not in line[0]:
            raise NoCall
        return self.near_until(tag)

    def search(self, pattern: re.Pattern[str], *, wake: str) -> re.Match[str]:
        """The next match of `pattern`. Each match ends with the character `wake`. The place stays the same.

        Raises `NoCall` if there never is one.
        """
        match = pattern.search(self.text, self.at)
        if match is None:
            self._at_end(wake=wake)
            raise NoCall
        return match

    def _at_end(self, *, wake: str = "") -> bool:
        if not self.is_end:
            raise MoreNeeded(wake)
        return True


def called(name: str, arguments: Mapping[str, Any]) -> tuple[ParsedCall, ...]:
    """One call. Raises `NoCall` for values that a reply cannot contain."""
    try:
        return (ParsedCall(name, as_json(arguments)),)
    except ValueError:  # half a surrogate pair
        raise NoCall from None


def scan_json(cursor: Cursor, close: str, tools: Tools) -> Sequence[ParsedCall]:
    """The calls in JSON up to `close`, which is read too. `close` inside a string is part of the string."""
    begin = cursor.at
    for _ in range(_MOST_INSIDE):
        if cursor.forgives and cursor.text.find(close, cursor.at) < 0:
            cursor.at = len(cursor.text)
            body = cursor.text[begin:]
        else:
            cursor.until(close)
            body = cursor.text[begin : cursor.at - len(close)]
        if calls := parse_tool_calls(body, tools):
            return calls
        if not ends_inside_value(body):
            break
    raise NoCall


Scan: TypeAlias = Callable[[Cursor, str, Tools], Sequence[ParsedCall]]
"""Reads a block from a cursor that stands behind the opening text, which is the second argument. Returns the calls, and
leaves the cursor behind them. Raises `MoreNeeded` and `NoCall`.
"""


@dataclass(slots=True, frozen=True, kw_only=True)
class ScanBlock:
    """A block that `scan` reads. See `Block`."""

    opens: tuple[str, ...]
    closes: tuple[str, ...]
    scan: Scan
    is_first: bool = False

    def start(
        self,
        opening: str,
        tools: Tools,
        breaks: tuple[str, ...],  # noqa: ARG002 - they end the block like any text that no value has
    ) -> "_ScanReader":
        """See `Block`. The texts in `breaks` end the block where no value can contain them, like any other text."""
        return _ScanReader(self, opening, tools)


class _ScanReader:
    """See `BlockReader`."""

    __slots__ = ("_block", "_opening", "_passed", "_text", "_tools", "_wake")

    def __init__(self, block: ScanBlock, opening: str, tools: Tools) -> None:
        self._block: Final = block
        self._opening: Final = opening
        self._tools: Final = tools
        self._text = ""
        self._wake = ""
        self._passed: Final[dict[int, int]] = {}

    def feed(self, text: str) -> BlockEnd | None:
        """See `BlockReader`."""
        self._text += text
        if self._wake not in text:
            return None
        try:
            return self._scan(Cursor(self._text, is_end=False, passed=self._passed))
        except MoreNeeded as more:
            self._wake = more.wake
            return None

    def finish(self, *, is_cut: bool) -> BlockEnd:
        """See `BlockReader`."""
        return self._scan(Cursor(self._text, is_end=True, forgives=not is_cut, passed=self._passed))

    def _scan(self, cursor: Cursor) -> BlockEnd:
        try:
            calls = tuple(self._block.scan(cursor, self._opening, self._tools))
        except NoCall:
            calls = ()
        return BlockEnd(calls, "", cursor.text[cursor.at :]) if calls else self._refused()

    def _refused(self) -> BlockEnd:
        """The block is no call. What stands behind its opening is read again, because a call may be in it."""
        return BlockEnd((), "", self._text)
