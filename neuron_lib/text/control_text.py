"""Keeps control tokens out of what people write: their spelling in a message stays text, whatever the template does.

Before a chat is rendered, one character of each spelling in it is replaced by a stand-in, a character that the chat
does not have. The template trims, cuts and joins such texts like any others, but what it makes of them spells no
token. In the prompt the real control tokens are those that the template wrote. They are where the prompt may be cut,
so that the parts with stand-ins can be read without control tokens, and the others as ever.

Pure; knows texts, and of the vocabulary only how its tokens are spelled.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ("ControlTexts", "Disguise", "Piece", "Strips")

_Trie: TypeAlias = dict[str, Any]
_Marks: TypeAlias = dict[tuple[str, tuple[str, ...]], list[int]]
"""The places of `ControlTexts.marks` in each text, with what is allowed there."""
_END: Final = ""
"""The key in a trie that says that a text ends there."""
_NEVER: Final = r"(?!)"
"""A pattern that nothing matches."""
_DEEPEST: Final = 64
"""Characters of a control token that are told apart one by one."""
_NUMBER: Final = re.compile(r"\d")
_SHORTEST_NUMBERED: Final = 4
_PART: Final = 1 << 15

_STAND_INS: Final = tuple(map(chr, (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF8FF))))
"""Characters without a meaning; those that Unicode promises never to give one come first."""
_ANY_STAND_IN: Final = re.compile("[\ufdd0-\ufdef\ue000-\uf8ff]|\\\\u(?:fd|[ef])", re.IGNORECASE)

_C_SPACE: Final = " \t\n\v\f\r"
"""What the tokenizer takes for white space beside a token that strips it."""


class Strips(NamedTuple):
    """On which sides a token swallows white space."""

    left: bool = False
    right: bool = False


class Piece(NamedTuple):
    """A part of a prompt. In one that `is_foreign` nothing spells a control token of the template."""

    text: str
    is_foreign: bool


class ControlTexts:
    """How the control tokens of a vocabulary are spelled. Immutable; lives as long as its model."""

    __slots__ = ("_beginnings", "_cores", "_exact", "_longest_core", "_strips")

    def __init__(self, strips: Mapping[str, Strips]) -> None:
        """`strips` has every text that the vocabulary reads as a control token; none is empty."""
        self._strips: Final = dict(strips)
        self._exact: Final = re.compile(_longest_of(_trie(strips)))
        # What people write is also found in other case and without the space around it: a template may change both.
        cores = [core for text in strips if (core := _core(text))]
        self._cores: Final = _trie(cores)
        self._longest_core: Final = max(map(len, cores), default=0)
        self._beginnings: Final[dict[tuple[str, ...], re.Pattern[str]]] = {}

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where control tokens stand in `text`, as start and end, in order."""
        return (match.span() for match in self._exact.finditer(text))

    def marks(self, text: str, *, allowed: tuple[str, ...], cutters: tuple[str, ...]) -> list[int]:
        """The places in a text of a chat that must not stay as they are.

        They are the beginnings of control tokens, and of what becomes one when something behind it is taken away: the
        rest of the text, white space, or one of `cutters`. Where one of `allowed` begins there is none.
        """
        pattern = self._beginnings.get(cutters)
        if pattern is None:
            pattern = self._beginnings[cutters] = _beginning_of(self._cores, cutters)
        # A search lets no other thread run, so a long text is searched in parts. The pattern looks so far ahead:
        ahead = self._longest_core + max(map(len, cutters), default=0) + 1
        places: list[int] = []
        for start in range(0, len(text), _PART):
            end = start + _PART
            found = (match.start() for match in pattern.finditer(text, start, end + ahead))
            places += takewhile(end.__gt__, found)
        return [place for place in places if not text.startswith(allowed, place)] if allowed else places

    def strips(self, text: str) -> Strips:
        """How the control token spelled `text` treats white space."""
        return self._strips[text]


def _core(text: str) -> str:
    """What of a control token's text must not be written. Of numbered tokens, of which there are thousands, what is
    before the number.
    """
    core = text.strip().lower()[:_DEEPEST]
    before = _NUMBER.split(core, maxsplit=1)[0]
    return before if len(before) >= _SHORTEST_NUMBERED else core


def _trie(texts: Iterable[str]) -> _Trie:
    """The texts by their characters; what is behind the first `_DEEPEST` of them counts as one."""
    root: _Trie = {}
    for text in texts:
        node = root
        for char in (*text[:_DEEPEST], *filter(None, [text[_DEEPEST:]])):
            node = node.setdefault(char, {})
        node[_END] = {}
    return root


def _longest_of(trie: _Trie) -> str:
    """A pattern for the longest text of the trie; for nothing if it has none."""
    longest_first = sorted(trie.items(), key=lambda item: -len(item[0]))
    branches = [re.escape(char) + _longest_of(below) for char, below in longest_first if char != _END]
    if not branches:
        return "" if _END in trie else _NEVER
    return f"(?:{'|'.join(branches)})" + ("?" if _END in trie else "")


def _beginning_of(trie: _Trie, cutters: Iterable[str]) -> re.Pattern[str]:
    """A pattern for the first character of a text of the trie, or of what may become one: see `ControlTexts.marks`."""
    cut = "|".join((r"\s", r"\Z", *map(re.escape, cutters)))

    def rest(node: _Trie) -> str:
        if _END in node:
            return ""
        return f"(?:{'|'.join(re.escape(char) + rest(below) for char, below in node.items())}|(?={cut}))"

    branches = [f"{re.escape(char)}(?={rest(below)})" for char, below in trie.items()]
    return re.compile("|".join(branches) if branches else _NEVER, re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class Disguise:
    """The stand-ins of one chat. Lives as long as its request."""

    controls: ControlTexts
    stand_ins: Mapping[str, str]
    """Character to what stands for it."""

    @classmethod
    def of(
        cls, controls: ControlTexts, chat: Sequence[tuple[Any, tuple[str, ...]]], *, cutters: tuple[str, ...]
    ) -> "tuple[list[Any], Disguise] | None":
        """The values of `chat` with stand-ins, and what they stand for; None if nothing in them spells a token.

        Each value comes with the control texts that it may contain. `cutters` are texts that the template cuts at.
        """
        marks: _Marks = {}
        for value, allowed in chat:
            for text in _texts(value):
                if (text, allowed) not in marks:
                    marks[text, allowed] = controls.marks(text, allowed=allowed, cutters=cutters)
        wanted = {text[place] for (text, _), places in marks.items() for place in places}
        if not wanted:
            return None
        taken = {char for value, _ in chat for text in _texts(value) for char in _taken(text)}
        free = (char for char in _STAND_INS if char not in taken)
        disguise = cls(controls, dict(zip(sorted(wanted), free, strict=False)))
        return [disguise._put_on(value, allowed, marks) for value, allowed in chat], disguise

    def _put_on(self, value: Any, allowed: tuple[str, ...], marks: _Marks) -> Any:
        """`value` with a stand-in for every place that must not stay as it is."""
        match value:
            case str():
                places = marks[value, allowed]
                if not places:
                    return value
                chars = list(value)
                for place in places:
                    chars[place] = self.stand_ins[chars[place]]
                return "".join(chars)
            case Mapping():
                return {
                    self._put_on(key, allowed, marks): self._put_on(item, allowed, marks) for key, item in value.items()
                }
            case list() | tuple():
                return [self._put_on(item, allowed, marks) for item in value]
            case _:
                return value

    def reveal(self, prompt: str) -> str:
        """The prompt as people wrote it."""
        prompt = self._decoded(prompt)
        for original, char in self.stand_ins.items():
            prompt = prompt.replace(char, original)
        return prompt

    def pieces(self, prompt: str) -> list[Piece]:
        """The prompt in parts, each without stand-ins. What is foreign lies between control tokens of the template."""
        prompt = self._decoded(prompt)
        worn = re.compile("|".join(self.stand_ins.values()))
        pieces: list[Piece] = []
        begin = settled = 0  # of the plain part that grows, and of the text not yet looked at
        left = Strips()
        for start, end in (*self.controls.find(prompt), (len(prompt), len(prompt))):
            right = self.controls.strips(prompt[start:end]) if end > start else Strips()
            if worn.search(prompt, settled, start):
                if settled > begin:
                    pieces.append(Piece(prompt[begin:settled], is_foreign=False))
                foreign = prompt[settled:start]
                foreign = foreign.lstrip(_C_SPACE) if left.right else foreign
                foreign = foreign.rstrip(_C_SPACE) if right.left else foreign
                pieces.append(Piece(self.reveal(foreign), is_foreign=True))
                begin = start
            settled, left = end, right
        if settled > begin:
            pieces.append(Piece(prompt[begin:settled], is_foreign=False))
        return pieces

    def _decoded(self, prompt: str) -> str:
        """The prompt with its stand-ins as characters, where the template has written some as JSON escapes."""
        for char in self.stand_ins.values():
            prompt = prompt.replace(f"\\u{ord(char):04x}", char)
        return prompt


def _texts(value: Any) -> Iterator[str]:
    """All texts inside a JSON value, keys included."""
    match value:
        case str():
            yield value
        case Mapping():
            for key, item in value.items():
                yield from _texts(key)
                yield from _texts(item)
        case list() | tuple():
            for item in value:
                yield from _texts(item)
        case _:
            pass


def _taken(text: str) -> Iterator[str]:
    """The stand-ins that must not be used beside `text`: those in it, and those that it spells as JSON escapes."""
    if _ANY_STAND_IN.search(text) is None:
        return
    yield from text
    for digits in re.findall(r"\\u([0-9a-f]{4})", text, re.IGNORECASE):
        yield chr(int(digits, 16))
