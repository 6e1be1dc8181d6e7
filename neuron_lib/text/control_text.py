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
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ("ControlTexts", "Disguise", "Piece", "Strips")

_Trie: TypeAlias = dict[str, Any]
_END: Final = ""
"""The key in a trie that says that a text ends there."""

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

    __slots__ = ("_exact", "_exact_start", "_folded", "_folded_start", "_strips")

    def __init__(self, strips: Mapping[str, Strips]) -> None:
        """`strips` has every text that the vocabulary reads as a control token; none is empty."""
        self._strips: Final = dict(strips)
        self._exact: Final = _trie(strips)
        self._exact_start: Final = _any_of(self._exact)
        # What people write is also found in other case and without the space around it: a template may change both.
        self._folded: Final = _trie(core for text in strips if (core := _fold(text.strip())))
        self._folded_start: Final = _any_of({*self._folded, *(char.upper() for char in self._folded)})

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Where control tokens stand in `text`, as start and end, in order."""
        end = 0
        for match in self._exact_start.finditer(text):
            start = match.start()
            if start >= end:
                length, _ = _walk(self._exact, text, start)
                if length:
                    end = start + length
                    yield start, end

    def marks(self, text: str, *, allowed: Sequence[str], cutters: Sequence[str]) -> list[int]:
        """The places in a text of a chat that must not stay as they are.

        They are the beginnings of control tokens, and of what becomes one when something behind it is taken away: the
        rest of the text, white space, or one of `cutters`. Where one of `allowed` begins there is none.
        """
        places = []
        for match in self._folded_start.finditer(text):
            start = match.start()
            if allowed and text.startswith(tuple(allowed), start):
                continue
            whole, reach = _walk(self._folded, text, start, folds=True)
            if whole or _may_be_completed(text, start, reach, cutters):
                places.append(start)
        return places

    def strips(self, text: str) -> Strips:
        """How the control token spelled `text` treats white space."""
        return self._strips[text]


def _fold(text: str) -> str:
    """`text` in lower case, character by character, so that places stay the same."""
    return "".join(map(_fold_char, text))


def _fold_char(char: str) -> str:
    lower = char.lower()
    return lower if len(lower) == 1 else char


def _trie(texts: Iterable[str]) -> _Trie:
    root: _Trie = {}
    for text in texts:
        node = root
        for char in text:
            node = node.setdefault(char, {})
        node[_END] = True
    return root


def _any_of(chars: Iterable[str]) -> re.Pattern[str]:
    """A pattern for one of `chars`; for nothing if there are none."""
    wanted = "".join(re.escape(char) for char in chars)
    return re.compile(f"[{wanted}]" if wanted else r"(?!)")


def _walk(trie: _Trie, text: str, start: int, *, folds: bool = False) -> tuple[int, int]:
    """How many characters from `start` on are the longest text of the trie, and how many begin one."""
    node, whole, reach = trie, 0, 0
    for position in range(start, len(text)):
        char = text[position]
        below = node.get(_fold_char(char) if folds else char)
        if below is None:
            break
        node, reach = below, reach + 1
        if _END in node:
            whole = reach
    return whole, reach


def _may_be_completed(text: str, start: int, reach: int, cutters: Sequence[str]) -> bool:
    """Whether one of the beginnings of a token at `start`, the longest of `reach` characters, may get another end."""
    end = start + reach
    if end == len(text) or text[end].isspace():
        return True
    beginnings = tuple(cutters)
    return bool(beginnings) and any(text.startswith(beginnings, place) for place in range(start + 1, end + 1))


@dataclass(slots=True, frozen=True)
class Disguise:
    """The stand-ins of one chat. Lives as long as its request."""

    controls: ControlTexts
    stand_ins: Mapping[str, str]
    """Character to what stands for it."""

    @classmethod
    def of(
        cls, controls: ControlTexts, chat: Sequence[tuple[Any, Sequence[str]]], *, cutters: Sequence[str]
    ) -> "tuple[list[Any], Disguise] | None":
        """The values of `chat` with stand-ins, and what they stand for; None if nothing in them spells a token.

        Each value comes with the control texts that it may contain. `cutters` are texts that the template cuts at.
        """
        wanted: set[str] = set()
        for value, allowed in chat:
            for text in _texts(value):
                wanted.update(text[place] for place in controls.marks(text, allowed=allowed, cutters=cutters))
        if not wanted:
            return None
        taken = {char for value, _ in chat for text in _texts(value) for char in _taken(text)}
        free = (char for char in _STAND_INS if char not in taken)
        disguise = cls(controls, dict(zip(sorted(wanted), free, strict=False)))
        return [disguise._put_on(value, allowed, cutters) for value, allowed in chat], disguise

    def _put_on(self, value: Any, allowed: Sequence[str], cutters: Sequence[str]) -> Any:
        """`value` with a stand-in for every place that must not stay as it is."""
        match value:
            case str():
                places = self.controls.marks(value, allowed=allowed, cutters=cutters)
                if not places:
                    return value
                chars = list(value)
                for place in places:
                    chars[place] = self.stand_ins[chars[place]]
                return "".join(chars)
            case Mapping():
                return {
                    self._put_on(key, allowed, cutters): self._put_on(item, allowed, cutters)
                    for key, item in value.items()
                }
            case list() | tuple():
                return [self._put_on(item, allowed, cutters) for item in value]
            case _:
                return value

    def reveal(self, prompt: str) -> str:
        """The prompt as people wrote it."""
        return self._decoded(prompt).translate({ord(char): original for original, char in self.stand_ins.items()})

    def pieces(self, prompt: str) -> list[Piece]:
        """The prompt in parts, each without stand-ins. What is foreign lies between control tokens of the template."""
        prompt = self._decoded(prompt)
        worn = _any_of(self.stand_ins.values())
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
