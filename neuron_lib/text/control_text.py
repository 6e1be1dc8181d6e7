"""Keeps control tokens out of messages: the spelling of a token in a message stays text, whatever the template does.

Before a chat is rendered, one character of each such spelling is replaced by a stand-in. A stand-in is a character that
the chat does not contain. The template trims, cuts and joins such texts like any others, but the results spell no
token. So all control tokens in the prompt were written by the template. The prompt is cut at them. The parts that
contain stand-ins are tokenized without control tokens, and the other parts in the usual way.

Pure. Knows texts, and of the vocabulary only the spelling of its tokens.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ("ControlTexts", "Disguise", "Piece", "Strips")

_Trie: TypeAlias = dict[str, Any]
_Marks: TypeAlias = dict[tuple[str, tuple[str, ...]], list[int]]
"""For each text and its allowed control texts: the positions that `ControlTexts.marks` found."""
_END: Final = ""
"""The key in a trie that says that a text ends at this node."""
_NEVER: Final = r"(?!)"
"""A pattern that nothing matches."""
_DEEPEST: Final = 64
"""The number of first characters of a control token for which the trie has a level each."""
_NUMBER: Final = re.compile(r"\d")
_SHORTEST_NUMBERED: Final = 4
_PART: Final = 1 << 15

_STAND_INS: Final = tuple(map(chr, (*range(0xFDD0, 0xFDF0), *range(0xE000, 0xF8FF))))
"""Characters without a meaning. The first ones will never get a meaning, as Unicode promises."""
_ANY_STAND_IN: Final = re.compile("[\ufdd0-\ufdef\ue000-\uf8ff]|\\\\u(?:fd|[ef])", re.IGNORECASE)

_C_SPACE: Final = " \t\n\v\f\r"
"""The characters that the tokenizer takes for white space beside a token that strips white space."""


class Strips(NamedTuple):
    """On which sides a control token removes white space."""

    left: bool = False
    right: bool = False


class Piece(NamedTuple):
    """A part of a prompt. If `is_foreign`, no control token is in it, whatever it spells."""

    text: str
    is_foreign: bool


class ControlTexts:
    """The spellings of the control tokens of a vocabulary. Immutable. Lives as long as its model."""

    __slots__ = ("_beginnings", "_cores", "_exact", "_longest_core", "_strips")

    def __init__(self, strips: Mapping[str, Strips]) -> None:
        """`strips` has every text that the vocabulary reads as a control token. None of the texts is empty."""
        self._strips: Final = dict(strips)
        self._exact: Final = re.compile(_longest_of(_trie(strips)))
        # Spellings are also found in another case and without the white space around them, because a template may
        # change both.
        cores = [core for text in strips if (core := _core(text))]
        self._cores: Final = _trie(cores)
        self._longest_core: Final = max(map(len, cores), default=0)
        self._beginnings: Final[dict[tuple[str, ...], re.Pattern[str]]] = {}

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """The start and the end of each control token in `text`, in order."""
        return (match.span() for match in self._exact.finditer(text))

    def marks(self, text: str, *, allowed: tuple[str, ...], cutters: tuple[str, ...]) -> list[int]:
        """The positions in a text of a chat at which a character must be replaced.

        They are the beginnings of control tokens. They are also the beginnings of texts that become a control token if
        something behind them is removed: the rest of the text, white space, or one of `cutters`. A position at which
        one of `allowed` begins is not marked.
        """
        pattern = self._beginnings.get(cutters)
        if pattern is None:
            pattern = self._beginnings[cutters] = _beginning_of(self._cores, cutters)
        # A search holds the interpreter lock, so a long text is searched in parts. The pattern looks `ahead` characters
        # beyond a part.
        ahead = self._longest_core + max(map(len, cutters), default=0) + 1
        places: list[int] = []
        for start in range(0, len(text), _PART):
            end = start + _PART
            found = (match.start() for match in pattern.finditer(text, start, end + ahead))
            places += takewhile(end.__gt__, found)
        return [place for place in places if not text.startswith(allowed, place)] if allowed else places

    def strips(self, text: str) -> Strips:
        """On which sides the control token spelled `text` removes white space. Raises `KeyError` for another text."""
        return self._strips[text]


def _core(text: str) -> str:
    """The part of a control token's text that must not be written: in small letters, without white space around it.

    There are thousands of numbered tokens. Of these it is the part before the number.
    """
    core = text.strip().lower()[:_DEEPEST]
    before = _NUMBER.split(core, maxsplit=1)[0]
    return before if len(before) >= _SHORTEST_NUMBERED else core


def _trie(texts: Iterable[str]) -> _Trie:
    """The texts by their characters. Everything behind the first `_DEEPEST` characters is one key."""
    root: _Trie = {}
    for text in texts:
        node = root
        for char in (*text[:_DEEPEST], *filter(None, [text[_DEEPEST:]])):
            node = node.setdefault(char, {})
        node[_END] = {}
    return root


def _longest_of(trie: _Trie) -> str:
    """A pattern for the longest text of the trie. A trie without texts gives a pattern that nothing matches."""
    longest_first = sorted(trie.items(), key=lambda item: -len(item[0]))
    branches = [re.escape(char) + _longest_of(below) for char, below in longest_first if char != _END]
    if not branches:
        return "" if _END in trie else _NEVER
    return f"(?:{'|'.join(branches)})" + ("?" if _END in trie else "")


def _beginning_of(trie: _Trie, cutters: Iterable[str]) -> re.Pattern[str]:
    """A pattern for the first character of each text that `ControlTexts.marks` must find."""
    cut = "|".join((r"\s", r"\Z", *map(re.escape, cutters)))

    def rest(node: _Trie) -> str:
        if _END in node:
            return ""
        return f"(?:{'|'.join(re.escape(char) + rest(below) for char, below in node.items())}|(?={cut}))"

    branches = [f"{re.escape(char)}(?={rest(below)})" for char, below in trie.items()]
    return re.compile("|".join(branches) if branches else _NEVER, re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class Disguise:
    """The stand-ins of one chat. Immutable. Lives as long as the request."""

    controls: ControlTexts
    stand_ins: Mapping[str, str]
    """For each replaced character its stand-in."""

    @classmethod
    def of(
        cls, controls: ControlTexts, chat: Sequence[tuple[Any, tuple[str, ...]]], *, cutters: tuple[str, ...]
    ) -> "tuple[list[Any], Disguise] | None":
        """The values of `chat` with stand-ins, and the disguise. None if no value spells a control token.

        Each value comes with the control texts that it may contain. `cutters` are texts at which the template cuts
        contents.
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
        """A copy of `value` with a stand-in at every marked position."""
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
        """The prompt with the original characters."""
        prompt = self._decoded(prompt)
        for original, char in self.stand_ins.items():
            prompt = prompt.replace(char, original)
        return prompt

    def pieces(self, prompt: str) -> list[Piece]:
        """The prompt in parts, with the original characters. A foreign part lies between two control tokens of the
        template.
        """
        prompt = self._decoded(prompt)
        worn = re.compile("|".join(self.stand_ins.values()))
        pieces: list[Piece] = []
        begin = settled = 0  # `begin` of the current plain part; everything before `settled` has been searched
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
        """The prompt in which stand-ins are characters again if the template has written them as JSON escapes."""
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
    """The characters that must not be stand-ins beside `text`: those in it and those that it spells as JSON escapes."""
    if _ANY_STAND_IN.search(text) is None:
        return
    yield from text
    for digits in re.findall(r"\\u([0-9a-f]{4})", text, re.IGNORECASE):
        yield chr(int(digits, 16))
