"""Choosing the next token from a row of scores: penalties, top-k, top-p, min-p, temperature, draw, in this order.

The order and the arithmetic are llama.cpp's, the code is numpy on the whole row: its own chain builds an array of
structs of the entire vocabulary for each token, which costs ten times as much, and aborts the process on scores that
are NaN. Knows no native pointer.
"""

import math
from collections import Counter, deque
from collections.abc import Sequence
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt

from neuron_lib.types import Sampling

__all__ = ("SamplerChain",)

_BLOCK: Final = 256
_COLDEST: Final = 1e-6
"""Temperatures below are greedy: nothing but the highest score would have a chance, and dividing would overflow."""

_Scores = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.intp]


class SamplerChain:
    """Chooses the tokens of one sequence; remembers its last `repeat_last_n` tokens and its random numbers."""

    def __init__(self, sampling: Sampling, *, history: Sequence[int]) -> None:
        """`history` is the prompt, which counts for the penalties."""
        self._sampling: Final = sampling
        self._random: Final = Random(sampling.seed)  # noqa: S311 - a client may ask for the same numbers again
        window = sampling.repeat_last_n if sampling.has_penalties else 0
        self._recent: Final[deque[int]] = deque(maxlen=None if window < 0 else window)
        self._counts: Final[Counter[int]] = Counter()
        if window:
            for token in history[-window:] if window > 0 else history:
                self._remember(token)

    def sample(self, row: _Scores) -> int:
        """The next token, as an index into `row`, which is only read. Scores that are NaN give a token all the same."""
        with np.errstate(all="ignore"):  # absurd numbers in a request may overflow; any token is a fair answer to them
            scores = self._penalised(row) if self._counts else row
            best = int(scores.argmax())  # a NaN counts as the highest
            is_clear = self._sampling.temperature < _COLDEST or not math.isfinite(scores[best])
            token = best if is_clear else self._draw(scores - scores[best])
        if self._recent.maxlen != 0:
            self._remember(token)
        return token

    def _remember(self, token: int) -> None:
        if len(self._recent) == self._recent.maxlen:
            oldest = self._recent[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._recent.append(token)
        self._counts[token] += 1

    def _penalised(self, row: _Scores) -> _Scores:
        sampling = self._sampling
        tokens = np.fromiter(self._counts.keys(), np.intp, len(self._counts))
        times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
        scores = row.copy()
        seen = row[tokens]
        seen = np.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
        scores[tokens] = seen - times * sampling.frequency_penalty - sampling.presence_penalty
        return scores

    def _draw(self, scores: _Scores) -> int:
        """A token by chance; the highest of `scores` is 0."""
        sampling = self._sampling
        kept: _Ids | None = None  # None is the whole vocabulary
        if 0 < sampling.top_k < len(scores):
            kept = _highest(scores, sampling.top_k)
        if sampling.top_p < 1.0:
            kept = _nucleus(scores, kept, sampling.top_p)
        if sampling.min_p > 0.0:
            kept = np.arange(len(scores)) if kept is None else kept
            kept = kept[scores[kept] >= min(0.0, math.log(sampling.min_p))]
        weights = np.exp((scores if kept is None else scores[kept]) / np.float32(sampling.temperature))
        chosen = _pick(weights, self._random.random())
        return chosen if kept is None else int(kept[chosen])


def _highest(scores: _Scores, count: int) -> _Ids:
    """The ids of the `count` highest scores, in no order."""
    return np.argpartition(scores, -count)[-count:]


def _nucleus(scores: _Scores, kept: _Ids | None, top_p: float) -> _Ids:
    """The fewest ids among `kept` with the highest scores whose probabilities add up to `top_p`; one at least."""
    if kept is None:
        enough = top_p * float(np.exp(scores).sum())
        # Sorting a vocabulary is dear and almost never needed, so sort only as many as it takes.
        count = _BLOCK
        while count < len(scores):
            kept = _highest(scores, count)
            if float(np.exp(scores[kept]).sum()) >= enough:
                break
            count *= 8
        else:
            kept = np.arange(len(scores))
    else:
        enough = top_p * float(np.exp(scores[kept]).sum())
    ordered = kept[np.argsort(-scores[kept], kind="stable")]
    reached = np.cumsum(np.exp(scores[ordered]), dtype=np.float64)
    return ordered[: int(np.searchsorted(reached, enough)) + 1]


def _pick(weights: _Scores, chance: float) -> int:
    """The index at which the running sum of `weights` passes `chance` (0 to 1) of their total."""
    # Sums of blocks first, then inside one block: a running sum over a vocabulary is the dearest part of all this.
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK), dtype=np.float64).cumsum()
    wanted = chance * blocks[-1]
    block = min(int(np.searchsorted(blocks, wanted, side="right")), len(blocks) - 1)
    start = block * _BLOCK
    inside = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    rest = wanted - (blocks[block - 1] if block else 0.0)
    return start + min(int(np.searchsorted(inside, rest, side="right")), len(inside) - 1)
