"""What the times of replies say about a model, as figures, a table and a plot. Pure: holds no clock."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from msgspec import Struct

__all__ = ("HEADINGS", "Figures", "Timed", "bars", "cells", "figures_of", "prompt_of")

HEADINGS: Final = ("STREAMS", "TOKENS/S", "EACH", "FIRST TEXT", "P95", "GAP", "P95", "LONGEST")
_WIDEST_BAR: Final = 40
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_WORDS: Final = ("river", "stone", "winter", "garden", "letter", "music", "harbor", "window", "copper", "valley")


class Timed(Struct, frozen=True, kw_only=True):
    """One reply: when it was asked for, when each piece of text came, and when it ended. Seconds of one clock."""

    asked_s: float
    pieces_s: tuple[float, ...]
    ended_s: float
    prompt_tokens: int
    completion_tokens: int


class Figures(Struct, frozen=True, kw_only=True):
    """How fast replies were that ran at the same time. Times are in seconds, rates in tokens per second.

    `tokens_per_s` is of all replies together, from the first request to the last token. `tokens_per_s_each` is the
    median of single replies, from the first text on. `first_text_s` is from the request to its first text. `gap_s` is
    between two pieces of text, which have a token each unless the client is slow. `_p95` is the value that 95 % do not
    exceed.
    """

    streams: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_s: float
    tokens_per_s_each: float
    first_text_s: float
    first_text_s_p95: float
    gap_s: float
    gap_s_p95: float
    gap_s_longest: float


def figures_of(replies: Sequence[Timed]) -> Figures:
    """The figures of replies that ran at the same time. There is one at least, and each has a piece of text."""
    tokens = sum(reply.completion_tokens for reply in replies)
    firsts = [reply.pieces_s[0] - reply.asked_s for reply in replies]
    gaps = [later - earlier for reply in replies for earlier, later in pairwise(reply.pieces_s)] or [0.0]
    took_s = max(reply.ended_s for reply in replies) - min(reply.asked_s for reply in replies)
    return Figures(
        streams=len(replies),
        prompt_tokens=round(sum(reply.prompt_tokens for reply in replies) / len(replies)),
        completion_tokens=tokens,
        tokens_per_s=_rate(tokens, took_s),
        tokens_per_s_each=_share([_own_rate(reply) for reply in replies], 0.5),
        first_text_s=_share(firsts, 0.5),
        first_text_s_p95=_share(firsts, 0.95),
        gap_s=_share(gaps, 0.5),
        gap_s_p95=_share(gaps, 0.95),
        gap_s_longest=max(gaps),
    )


def cells(figures: Figures) -> tuple[str, ...]:
    """The row of the table, in the order of `HEADINGS`."""
    times = (
        figures.first_text_s,
        figures.first_text_s_p95,
        figures.gap_s,
        figures.gap_s_p95,
        figures.gap_s_longest,
    )
    rates = (figures.tokens_per_s, figures.tokens_per_s_each)
    return (str(figures.streams), *(f"{rate:.1f}" for rate in rates), *map(_milliseconds, times))


def bars(levels: Sequence[Figures]) -> list[str]:
    """The plot: the tokens per second of all replies together, as one bar for each number of streams."""
    most = max((each.tokens_per_s for each in levels), default=0.0) or 1.0
    width = max((len(str(each.streams)) for each in levels), default=1)
    lines = ["tokens/s by streams"]
    lines += [
        f"{each.streams:>{width}} {_bar(each.tokens_per_s / most):<{_WIDEST_BAR}} {each.tokens_per_s:.1f}"
        for each in levels
    ]
    return lines


def prompt_of(words: int, *, number: int) -> str:
    """A prompt of about so many words. Prompts of different numbers differ from their first word on.

    So none of them is found in a cache of earlier prompts.
    """
    begin = _WORDS[number % len(_WORDS)]
    rest = " ".join(_WORDS[(number + index) % len(_WORDS)] for index in range(max(0, words - 8)))
    return f"{begin} {number}. {rest} Tell a long story about these words."


def _rate(tokens: int, took_s: float) -> float:
    return tokens / took_s if took_s > 0 else 0.0


def _own_rate(reply: Timed) -> float:
    return _rate(reply.completion_tokens - 1, reply.ended_s - reply.pieces_s[0])


def _share(values: Sequence[float], share: float) -> float:
    """The smallest of the values that this share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _milliseconds(seconds: float) -> str:
    value = round(1000 * seconds, 1)
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _bar(share: float) -> str:
    eighths = round(share * _WIDEST_BAR * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
