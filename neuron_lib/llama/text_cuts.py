"""Where a text may be cut before libllama's tokenizer reads it. Pure.

Two properties of the tokenizer make this necessary (both measured, libllama of llama-cpp-python 0.3.36):

- For a third of its pre-tokenizers it splits text with `std::regex`. That recurses for each character of a match and
  takes 330 bytes of stack each time. When the stack is full the process ends: after 26,000 characters with 8 MiB. Some
  expressions also take time that grows with the square of the match.
- Its time grows with the square of the number of special tokens in a text. 2 MB of them took a minute.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final
from unicodedata import category

__all__ = ("LONGEST_STRETCH", "Cutter")

LONGEST_STRETCH: Final = 3072
"""The most characters without a boundary that the tokenizer gets in one call.

One match covers at most two stretches, so it needs at most 2 MiB of stack. The number is a power of two times three.
Tokens of equal characters have a length that is a power of two. Tokens of digits have three. So a cut in a long run of
equal characters or digits falls between two tokens.
"""

_PART: Final = 1 << 15
_WINDOW: Final = 1 << 11
"""A special token is searched for within this many characters. If there is none, special tokens are rare, and no cut is
needed.
"""
_MOST_CANDIDATES: Final = 16
"""The most positions of each kind that are checked for one cut."""

# Every pre-tokenizer ends a match in front of these, except for line breaks behind punctuation, which belong to the
# match of that punctuation. `/` is not separated from line breaks (gpt-4o, tekken), and neither is one space between
# letters (exaone-moe). Characters outside of ASCII count as letters here, because libllama's tables of letters and
# spaces are not Python's.
_SPACE: Final = r"\t-\r "
_PUNCTUATION: Final = r"!-/:-@\[-`{-~"
_BOUNDARY: Final = re.compile(
    rf"(?<=[^{_SPACE}/])(?=[\r\n])"
    rf"|(?<=[^{_SPACE}])(?=[\t\v\f])"
    rf"|(?<=[{_PUNCTUATION}])(?= )"
    rf"|(?<=[^{_SPACE}])(?= (?![^{_SPACE}{_PUNCTUATION}]))"
)
_BETWEEN_WORDS: Final = re.compile(r"(?<=[^\W_])(?= [^\W_])")
_BEHIND_WORD: Final = re.compile(r"(?<=[^\W_])(?=[^\w\s'’])")
_BETWEEN_CLASSES: Final = re.compile(r"(?<=\s)(?=\S)|(?<=\S)(?=\s)|(?<=[^\W_])(?=[^\w\s'’])|(?<=[^\w\s])(?=[^\W_])")
_PLACES: Final = 32
"""So many positions at which a special token might begin take as long as one character of prose."""
_JOINER: Final = "\u200d"


class Cutter:
    """Cuts texts for one vocabulary. Immutable.

    `specials` are the texts that the tokenizer takes out of a text as whole tokens before anything else. They are never
    cut. `cuts_stretches` says that the tokenizer splits the other text with regular expressions.
    """

    def __init__(self, specials: Iterable[str], *, cuts_stretches: bool) -> None:
        self._specials: Final = frozenset(text for text in specials if text)
        self._lengths: Final = sorted({len(text) for text in self._specials}, reverse=True)
        self._firsts: Final = Counter(text[0] for text in self._specials)
        self._first: Final = re.compile(f"[{''.join(map(re.escape, self._firsts))}]") if self._firsts else None
        self._cuts_stretches: Final = cuts_stretches

    def pieces(self, text: str) -> Iterator[str]:
        """`text` in pieces, for one call of the tokenizer each.

        The tokens of the pieces are those of the whole, unless the text has a stretch longer than `LONGEST_STRETCH`.
        Such a stretch is cut where most pre-tokenizers part words, if its second half has such a position.
        """
        for part in self._parts(text):
            yield from self._stretches(part) if self._cuts_stretches else (part,)

    def effort(self, text: str) -> int:
        """Approximately how long tokenizing takes, in characters of prose.

        The tokenizer searches for each special token separately, and each position at which one might begin takes time:
        with 6000 special tokens 32 kB of `<` took 4 s (measured).
        """
        return len(text) + sum(text.count(first) * count for first, count in self._firsts.items()) // _PLACES

    def _parts(self, text: str) -> Iterator[str]:
        """Cut behind special tokens. Only a long text with many of them has several parts."""
        start = 0
        look = _PART
        while self._first is not None and len(text) - look > _WINDOW:
            cut = self._end_of_special(self._first, text, look)
            if cut is None:
                look += _PART
                continue
            yield text[start:cut]
            start, look = cut, cut + _PART
        if start < len(text):
            yield text[start:]

    def _end_of_special(self, first: re.Pattern[str], text: str, start: int) -> int | None:
        """A position in the window from `start` on at which a special token ends, whatever the other tokens are."""
        candidates = 0
        for match in first.finditer(text, start, start + _WINDOW):
            end = self._longest_special(text, match.start())
            if end is None:
                continue
            # Some special tokens remove the spaces behind them.
            if not (self._is_inside(text, match.start()) or self._is_inside(text, end) or text[end].isspace()):
                return end
            candidates += 1
            if candidates == _MOST_CANDIDATES:
                break
        return None

    def _longest_special(self, text: str, start: int) -> int | None:
        """The end of the longest special token that begins at `start`, or None if the text ends there."""
        ends = (start + length for length in self._lengths if text[start : start + length] in self._specials)
        return next((end for end in ends if end < len(text)), None)

    def _is_inside(self, text: str, place: int) -> bool:
        """Whether a special token lies on both sides of `place`."""
        longest = self._lengths[0] if self._lengths else 0
        return any(
            text[start : start + length] in self._specials
            for start in range(max(0, place - longest + 1), place)
            if text[start] in self._firsts
            for length in self._lengths
            if start + length > place
        )

    def _stretches(self, text: str) -> Iterator[str]:
        piece = start = 0  # the piece begins at `piece`, the stretch at `start`
        while len(text) - start > LONGEST_STRETCH:
            middle, limit = start + LONGEST_STRETCH // 2, start + LONGEST_STRETCH
            boundary = _BOUNDARY.search(text, middle, limit) or _last_boundary(text, start + 1, middle)
            if boundary is not None:
                start = boundary.start()
                continue
            start = self._cut_of_stretch(text, middle, limit)
            yield text[piece:start]
            piece = start
        if piece < len(text):
            yield text[piece:]

    def _cut_of_stretch(self, text: str, start: int, end: int) -> int:
        """The best position for a cut between `start` and `end`."""
        for expression in (_BETWEEN_WORDS, _BEHIND_WORD, _BETWEEN_CLASSES):
            for match in islice(expression.finditer(text, start, end), _MOST_CANDIDATES):
                if not (_joins(text, match.start()) or self._is_inside(text, match.start())):
                    return match.start()
        # In a run of equal characters the last position is the best.
        near = range(end, start, -1)
        return next((place for place in near if not (_joins(text, place) or self._is_inside(text, place))), end)


def _last_boundary(text: str, start: int, end: int) -> re.Match[str] | None:
    last = None
    for last in _BOUNDARY.finditer(text, start, end):  # noqa: B007 - only the last counts
        pass
    return last


def _joins(text: str, place: int) -> bool:
    """Whether the character behind `place` belongs to the one in front of it, like marks and joiners."""
    kind = category(text[place])
    return kind[0] == "M" or kind == "Cf" or text[place - 1] == _JOINER
