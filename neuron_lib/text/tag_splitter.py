"""Finds literal tags in text that arrives in pieces. Decides only where to cut. The caller knows what a tag means.

Two rules make the result independent of how the text was cut into pieces. The tag whose *last* character comes first
wins. Characters that may still become part of a tag are held back.
"""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

__all__ = ("Cut", "Markers", "cut_at_tag")


class Markers(Struct, frozen=True):
    """The two tags around a block. Both are non-empty, and they differ."""

    open: str
    close: str


class Cut(NamedTuple):
    """`before` is the text in front of the tag, `tag` the tag that was found, `rest` the text behind it, which is not
    searched yet.

    Without a tag, `rest` is the shortest end of the text that must be held back because a tag may begin in it.
    """

    before: str
    tag: str | None
    rest: str


def cut_at_tag(text: str, tags: Sequence[str]) -> Cut:
    """Cut `text` at the first complete one of `tags`. There must be at least one tag, and none may be empty."""
    found = [(start + len(tag), start) for tag in tags if (start := text.find(tag)) >= 0]
    if found:
        # If several tags are completed by the same character, the longest has the smallest start.
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
