"""Reads single blocks of text with calls, each from behind the text that opens the block to the end of the block.

A block knows nothing of reasoning and of answers. `marked.py` decides where a block may begin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from neuron_lib.text.formats.literals import ValueScanner
from neuron_lib.text.formats.tool_format import ParsedCall, Tools
from neuron_lib.text.tag_splitter import cut_at_tag

__all__ = ("Block", "BlockEnd", "BlockReader", "PairBlock", "Parser", "ValueBlock")

_MOST_INSIDE: Final = 4
"""The most markers in one block that are taken for a part of a value. For each the block is parsed once more."""

Parser: TypeAlias = Callable[[str, Tools], Sequence[ParsedCall]]
"""Reads the whole body of a block. Returns no calls if any part of the body is not understood."""


class BlockEnd(NamedTuple):
    """The end of a block. `rest` is the text behind the block, which is read further.

    Without `calls` the block is no call. Then `text` is its text without its opening, which is shown.
    """

    calls: tuple[ParsedCall, ...]
    text: str
    rest: str


class BlockReader(Protocol):
    """Reads one block. The result must not depend on how the text is cut into pieces."""

    def feed(self, text: str) -> BlockEnd | None:
        """Add text. Returns the end of the block if the block ends in this text. Not called again after that."""
        ...

    def finish(self, *, is_cut: bool) -> BlockEnd:
        """The reply has ended inside the block. `is_cut` says that the reply had no room to go on."""
        ...


class Block(Protocol):
    """How one kind of block is opened and read. Immutable."""

    @property
    def opens(self) -> tuple[str, ...]:
        """The texts that open it. None is empty."""
        ...

    @property
    def closes(self) -> tuple[str, ...]:
        """The texts that may end it."""
        ...

    @property
    def is_first(self) -> bool:
        """Whether it opens only where nothing but white space was answered before it, except other calls."""
        ...

    def start(self, opening: str, tools: Tools, breaks: tuple[str, ...]) -> BlockReader:
        """A reader for a block that `opening` has opened.

        Texts in `breaks` end the block unless they are part of a value. Then the block is no call, and the text is part
        of `rest`.
        """
        ...


def _never_inside(_body: str) -> bool:
    return False


@dataclass(slots=True, frozen=True, kw_only=True)
class PairBlock:
    """A block between two markers. `parse` reads the body between them.

    `ends_inside` says whether a beginning of a body ends inside a value. A closing marker there is part of the value.
    With `keeps_opening` the body includes the opening text. If the reply ends inside the block, the block may still be
    understood, unless the reply was cut and the body `may_be_any_text`.
    """

    opens: tuple[str, ...]
    closes: tuple[str, ...]
    parse: Parser
    ends_inside: Callable[[str], bool] = _never_inside
    keeps_opening: bool = False
    may_be_any_text: bool = False
    is_first: bool = False

    def start(self, opening: str, tools: Tools, breaks: tuple[str, ...]) -> BlockReader:
        return _PairReader(self, opening if self.keeps_opening else "", tools, breaks)


class _PairReader:
    __slots__ = ("_block", "_body", "_breaks", "_first_inside", "_held", "_inside", "_skipped", "_tags", "_tools")

    def __init__(self, block: PairBlock, opening: str, tools: Tools, breaks: tuple[str, ...]) -> None:
        self._block = block
        self._tools = tools
        self._breaks = breaks
        self._tags = (*block.closes, *breaks)
        self._skipped = len(opening)
        self._body = opening
        self._held = ""
        # The markers in the body that were taken for parts of a value: the first of them, and their number.
        self._first_inside: tuple[int, str] | None = None
        self._inside = 0

    def feed(self, text: str) -> BlockEnd | None:
        before, tag, rest = cut_at_tag(self._held + text, self._tags)
        while tag is not None:
            self._body += before
            end = self._take_tag(tag, rest)
            if end is not None:
                return end
            before, tag, rest = cut_at_tag(rest, self._tags)
        self._body += before
        self._held = rest
        return None

    def finish(self, *, is_cut: bool) -> BlockEnd:
        self._body += self._held
        if is_cut and self._block.may_be_any_text:
            return self._refused("", "")
        shorter = min((_without_beginning(close, self._body) for close in self._block.closes), key=len)
        calls = tuple(self._block.parse(shorter, self._tools))
        return BlockEnd(calls, "", "") if calls else self._refused("", "")

    def _take_tag(self, tag: str, rest: str) -> BlockEnd | None:
        if self._inside < _MOST_INSIDE and self._block.ends_inside(self._body):
            self._inside += 1
            self._first_inside = self._first_inside or (len(self._body), tag)
            self._body += tag
            return None
        calls = tuple(self._block.parse(self._body, self._tools)) if tag not in self._breaks else ()
        return BlockEnd(calls, "", rest) if calls else self._refused(tag, rest)

    def _refused(self, tag: str, rest: str) -> BlockEnd:
        """The block that `tag` ends is no call. Its text ends at the first tag in it."""
        body = self._body
        if self._first_inside is not None:
            place, first = self._first_inside
            body, rest, tag = body[:place], body[place + len(first) :] + tag + rest, first
        text = body[self._skipped :]
        return BlockEnd((), text + tag, rest) if tag in self._block.closes else BlockEnd((), text, tag + rest)


@dataclass(slots=True, frozen=True, kw_only=True)
class ValueBlock:
    """A block that ends by itself: a value in brackets, perhaps behind a head such as the function's name.

    - `begins` finds the place of the value's opening bracket in the text of the block: a place, -1 if no value can come
      any more, None while that is not known. Its answer must not change when more text comes.
    - `parse` reads the head and the value together.
    - `may_be_call` says whether a beginning of the value may still become a call. Is asked about the first characters
      only.
    - `tails` are texts that may follow the value and belong to the block, such as the end of a code fence.
    - With `keeps_opening` the text of the block includes the opening text, such as a bracket.
    """

    opens: tuple[str, ...]
    begins: Callable[[str], int | None]
    parse: Parser
    may_be_call: Callable[[str, Tools], bool] = lambda _value, _tools: True
    tails: tuple[str, ...] = ()
    keeps_opening: bool = False
    is_first: bool = False

    @property
    def closes(self) -> tuple[str, ...]:
        return self.tails

    def start(self, opening: str, tools: Tools, breaks: tuple[str, ...]) -> BlockReader:  # noqa: ARG002 - see `Block`
        return _ValueReader(self, opening if self.keeps_opening else "", tools)


_LOOKED_AT: Final = 256
"""So many characters of a value say whether it may be a call."""


class _ValueReader:
    """Reads a head, then a value, then a tail."""

    __slots__ = ("_block", "_calls", "_scanner", "_skipped", "_start", "_text", "_tools")

    def __init__(self, block: ValueBlock, opening: str, tools: Tools) -> None:
        self._block = block
        self._tools = tools
        self._text = opening
        self._skipped = len(opening)
        self._start: int | None = None  # of the value
        self._scanner = ValueScanner()
        self._calls: tuple[ParsedCall, ...] = ()  # of the value, while a tail may follow

    def feed(self, text: str) -> BlockEnd | None:
        if self._calls:
            self._text += text
            return self._ended()
        if self._start is not None:
            return self._read_value(text, self._start)
        self._text += text
        start = self._start = self._block.begins(self._text)
        if start is None:
            return None
        if start < 0:
            return self._refused()
        text, self._text = self._text[start:], self._text[:start]
        return self._read_value(text, start)

    def finish(self, *, is_cut: bool) -> BlockEnd:  # noqa: ARG002 - what is complete is a call in any case
        if self._calls:  # and what may still be the tail is not the whole tail
            return BlockEnd(self._calls, "", "")
        return BlockEnd((), self._text[self._skipped :], "")

    def _read_value(self, text: str, start: int) -> BlockEnd | None:
        beginning = self._text[start : start + _LOOKED_AT]
        beginning += text[: _LOOKED_AT - len(beginning)]
        if not self._block.may_be_call(beginning, self._tools):  # before all of the text is searched for its end
            self._text += text
            return self._refused()
        end = self._scanner.feed(text)
        self._text += text if end is None else text[:end]
        rest = "" if end is None else text[end:]
        if end is None:
            return None
        self._calls = tuple(self._block.parse(self._text, self._tools))
        if not self._calls:
            return BlockEnd((), self._text[self._skipped :], rest)
        self._text = rest
        return self._ended()

    def _ended(self) -> BlockEnd | None:
        """The end behind the tail, if one follows the value. None while one may still follow."""
        text = self._text.lstrip()
        for tail in self._block.tails:
            if text.startswith(tail):
                return BlockEnd(self._calls, "", text[len(tail) :])
        if any(tail.startswith(text) for tail in self._block.tails):
            return None
        return BlockEnd(self._calls, "", self._text)

    def _refused(self) -> BlockEnd:
        """No value that can be a call begins here. All of the text is read again."""
        return BlockEnd((), "", self._text[self._skipped :])


def _without_beginning(tag: str, body: str) -> str:
    """`body` without the beginning of `tag` at its end."""
    lengths = (length for length in range(len(tag) - 1, 0, -1) if body.endswith(tag[:length]))
    return body[: len(body) - next(lengths, 0)]
