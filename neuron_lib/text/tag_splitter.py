"""Finds literal tags in text that arrives in pieces. Decides only where to cut; what a tag means is its caller's.

The rule that makes every caller independent of how the text was cut up on its way: the tag whose *last* character
comes first wins, and no character that may still become part of a tag is let go.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

__all__ = ("Cut", "Markers", "cut_at_tag")


class Markers(Struct, frozen=True):
    """The two tags around a block; both are non-empty and differ."""

    open: str
    close: str


class Cut(NamedTuple):
    """`before` is settled text, `tag` the tag found behind it, `rest` what follows and has not been looked at.

    Without a tag, `rest` is the shortest end of the text that must wait because a tag may have begun in it.
    """

    before: str
    tag: str | None
    rest: str


def cut_at_tag(text: str, tags: Sequence[str]) -> Cut:
    """Cut `text` at the first complete one of `tags` (non-empty strings, at least one)."""
    found = [(start + len(tag), start) for tag in tags if (start := text.find(tag)) >= 0]
    if found:
        # Of tags completed by the same character the longest has the smallest start.
        end, start = min(found)
        return Cut(text[:start], text[start:end], text[end:])
    settled = len(text) - _unsettled_chars(text, tags)
    return Cut(text[:settled], None, text[settled:])


def _unsettled_chars(text: str, tags: Sequence[str]) -> int:
    """The length of the longest end of `text` that is a beginning of a tag."""
    longest = max(len(tag) for tag in tags) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(tag.startswith(end) for tag in tags):
            return length
    return 0
