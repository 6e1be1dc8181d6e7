"""The filters that choose the candidates for a draw: top-n-sigma, top-k, typical-p, top-p, min-p, XTC. Pure.

A filter reads scores, float32 of shape (n,). The highest of them is 0 and none is NaN. It returns the indices that are
kept, int64 in no order, or None for all of them. At least one index is kept.
"""

import math
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from neuron_lib.types import Sampling

__all__ = ("Filter", "Indices", "Scores", "filters", "reached_by")

Scores: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.intp]
Filter: TypeAlias = Callable[[Scores], Indices | None]

_COLUMNS: Final = 1024
_LIGHTEST: Final = 1e-12
"""Tokens with less than this share of the likeliest token's weight do not count, in a vocabulary of any size."""


def filters(sampling: Sampling, *, random: Random) -> tuple[Filter, ...]:
    """The filters that `sampling` asks for, in llama.cpp's order. `random` decides whether XTC takes effect for a
    token.
    """
    chosen: list[Filter] = []
    if sampling.top_n_sigma > 0:
        chosen.append(partial(_top_n_sigma, n=sampling.top_n_sigma))
    if sampling.top_k > 0:
        chosen.append(partial(_top_k, k=sampling.top_k))
    if sampling.typical_p < 1:
        chosen.append(partial(_typical_p, p=sampling.typical_p))
    if sampling.top_p < 1:
        chosen.append(partial(_top_p, p=sampling.top_p))
    if sampling.min_p > 0:
        chosen.append(partial(_min_p, p=sampling.min_p))
    if sampling.xtc_probability > 0:
        chosen.append(
            partial(_xtc, threshold=sampling.xtc_threshold, probability=sampling.xtc_probability, random=random)
        )
    return tuple(chosen)


def _top_n_sigma(scores: Scores, *, n: float) -> Indices:
    possible = scores[scores > -math.inf]
    return np.flatnonzero(scores >= -n * float(possible.std()))


def _top_k(scores: Scores, *, k: int) -> Indices | None:
    if k >= scores.size:
        return None
    candidates = np.flatnonzero(scores >= reached_by(scores, k))
    return candidates[np.argpartition(scores[candidates], -k)[-k:]]


def reached_by(scores: Scores, count: int) -> float:
    """A score that at least `count` of `scores` reach, and not many more. `count` is at most their number."""
    if count < _COLUMNS <= scores.size:
        # The maxima of so many columns are as many different scores, and a far smaller array to search.
        scores = scores[: scores.size // _COLUMNS * _COLUMNS].reshape(-1, _COLUMNS).max(axis=0)
    return float(np.partition(scores, -count)[-count])


def _typical_p(scores: Scores, *, p: float) -> Indices:
    weights = np.exp(scores)
    total = float(weights.sum(dtype=np.float64))
    # A token that cannot come adds nothing to the entropy. Minus infinity times zero would be NaN.
    mean = float((weights * np.maximum(scores, -1e4)).sum(dtype=np.float64)) / total
    return _fewest(np.abs(scores - mean), weights, share=p)


def _top_p(scores: Scores, *, p: float) -> Indices:
    return _fewest(-scores, np.exp(scores), share=p)


def _min_p(scores: Scores, *, p: float) -> Indices:
    return np.flatnonzero(scores >= min(0.0, math.log(p)))


def _xtc(scores: Scores, *, threshold: float, probability: float, random: Random) -> Indices | None:
    if random.random() >= probability:
        return None
    weights = np.exp(scores)
    # A token that a mask has forbidden is not a candidate, however low the threshold is.
    is_top = (weights >= threshold * float(weights.sum(dtype=np.float64))) & (scores > -math.inf)
    top = np.flatnonzero(is_top)
    if top.size < 2:
        return None
    is_top[top[scores[top].argmin()]] = False
    return np.flatnonzero(~is_top)


def _fewest(distances: Scores, weights: Scores, *, share: float) -> Indices:
    """The smallest set of indices, nearest first, whose weights add up to `share` of all weights."""
    wanted = share * float(weights.sum(dtype=np.float64))
    near = np.flatnonzero(distances <= distances[_heavy(weights, wanted)].max())
    near = near[np.argsort(distances[near], kind="stable")]
    reached = np.cumsum(weights[near], dtype=np.float64)
    return near[: int(np.searchsorted(reached, wanted)) + 1]


def _heavy(weights: Scores, wanted: float) -> npt.NDArray[np.bool_]:
    """A mask of few weights that add up to `wanted`. The heaviest weight is 1.

    Sorting these few is far cheaper than sorting the vocabulary.
    """
    bound = 1.0
    while True:
        bound /= 64
        heavy = weights >= bound
        if bound < _LIGHTEST or float(weights[heavy].sum(dtype=np.float64)) >= wanted:
            return heavy
