"""What decides which tokens may be drawn at all: top-n-sigma, top-k, typical-p, top-p, min-p, XTC. Pure.

A filter reads scores of which the highest is 0 and none is NaN, and answers with the indices to keep, in no order,
or with None for all of them. At least one is kept.
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
"""Of less than this, compared to the likeliest, no vocabulary has so much that it would count."""


def filters(sampling: Sampling, *, random: Random) -> tuple[Filter, ...]:
    """Those that `sampling` asks for, in llama.cpp's order. `random` decides when XTC strikes."""
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
    """A score that at least `count` of `scores` reach, and not many more; `count` is at most their number."""
    if count < _COLUMNS <= scores.size:
        # The maxima of that many columns are as many different scores, and a far smaller array to search.
        scores = scores[: scores.size // _COLUMNS * _COLUMNS].reshape(-1, _COLUMNS).max(axis=0)
    return float(np.partition(scores, -count)[-count])


def _typical_p(scores: Scores, *, p: float) -> Indices:
    weights = np.exp(scores)
    total = float(weights.sum(dtype=np.float64))
    # A token that cannot come adds nothing to the entropy; minus infinity times zero would be NaN.
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
    # What a mask has forbidden is no candidate, however low the threshold.
    is_top = (weights >= threshold * float(weights.sum(dtype=np.float64))) & (scores > -math.inf)
    top = np.flatnonzero(is_top)
    if top.size < 2:
        return None
    is_top[top[scores[top].argmin()]] = False
    return np.flatnonzero(~is_top)


def _fewest(distances: Scores, weights: Scores, *, share: float) -> Indices:
    """The fewest indices, nearest first, whose weights add up to `share` of all."""
    wanted = share * float(weights.sum(dtype=np.float64))
    near = np.flatnonzero(distances <= distances[_heavy(weights, wanted)].max())
    near = near[np.argsort(distances[near], kind="stable")]
    reached = np.cumsum(weights[near], dtype=np.float64)
    return near[: int(np.searchsorted(reached, wanted)) + 1]


def _heavy(weights: Scores, wanted: float) -> npt.NDArray[np.bool_]:
    """Few weights, the heaviest of which is 1, that add up to `wanted`: sorting a vocabulary is dear, these are not."""
    bound = 1.0
    while True:
        bound /= 64
        heavy = weights >= bound
        if bound < _LIGHTEST or float(weights[heavy].sum(dtype=np.float64)) >= wanted:
            return heavy
