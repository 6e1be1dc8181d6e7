"""What decides which tokens may be drawn at all: top-n-sigma, top-k, typical-p, top-p, min-p, XTC. Pure.

Scores are float32, the highest of a row is 0, none is NaN; a score of minus infinity is a token that cannot come. The
weight of a token is `exp(score)`. Every filter reads the scores before the temperature, as in llama.cpp.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from neuron_lib.types import Sampling

__all__ = (
    "Filter",
    "Indices",
    "Scores",
    "Share",
    "Unsure",
    "filters",
    "min_p_floor",
    "sigma_floor",
    "top_k",
    "typical_distances",
    "xtc",
)

Scores: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.intp]
Filter: TypeAlias = Callable[[Scores, float], Indices]
"""`(scores, rest)` to the indices to keep, in no order, at least one.

`scores` may lack the least likely tokens of the row, which weigh at most `rest` together. Raises `Unsure` where the
answer depends on them.
"""

_COLUMNS: Final = 1024
_SORTED: Final = 2048
"""So many scores are sorted faster than looked at."""
_SAMPLE: Final = 512
_ROUNDING: Final = 1e-5
"""Sums of a vocabulary in 32 bits differ by less, relatively."""


class Unsure(Exception):
    """Some tokens were left out, and the filter needs their scores."""


def filters(sampling: Sampling) -> tuple[Filter, ...]:
    """The filters of `sampling` between top-k and XTC, in llama.cpp's order, if one of them needs a sum over the row.

    Without such a filter min-p is a floor like top-n-sigma, see `min_p_floor`, and there are none.
    """
    chosen: list[Filter] = []
    if sampling.typical_p < 1:
        chosen.append(partial(_typical_p, p=sampling.typical_p))
    if sampling.top_p < 1:
        chosen.append(partial(_top_p, p=sampling.top_p))
    if chosen and sampling.min_p > 0:
        chosen.append(partial(_min_p, p=sampling.min_p))
    return tuple(chosen)


def sigma_floor(row: Scores, n: float) -> float:
    """Top-n-sigma: how far below the best score a token may be, `n` standard deviations of the possible scores."""
    spread = float(row.std())
    if not math.isfinite(spread):
        spread = float(row[row > -math.inf].std())
    return -n * spread


def top_k(row: Scores, k: int) -> Indices:
    """The indices of the `k` highest scores of `row`, the highest first, of equal scores the lower index first.

    `k` is at least 1 and at most the size of `row`. Tokens that cannot come are left out if another one can.
    """
    least = _reached_by(row, k)
    is_candidate = row >= least
    if np.count_nonzero(is_candidate) <= 2 * (k + _COLUMNS):
        candidates = np.flatnonzero(is_candidate)
    else:  # many have the very same score, or a mask has left few
        candidates = np.flatnonzero(row > least)
        missing = k - candidates.size
        if missing > 0 and (least > -math.inf or missing == k):
            candidates = np.concatenate((candidates, np.flatnonzero(row == least)[:missing]))
    order = np.argsort(-row[candidates], kind="stable")
    return candidates[order[:k]]


def _reached_by(scores: Scores, count: int) -> np.float32:
    """A score that at least `count` of `scores` reach, and not many more; `count` is at most their number."""
    if count < _COLUMNS <= scores.size:
        # The maxima of that many columns are as many different scores, and a far smaller array to search.
        scores = scores[: scores.size // _COLUMNS * _COLUMNS].reshape(-1, _COLUMNS).max(axis=0)
    return np.float32(np.partition(scores, -count)[-count])


def _typical_p(scores: Scores, rest: float, *, p: float) -> Indices:
    if rest:
        raise Unsure  # every token counts for the entropy
    weights = np.exp(scores)
    return _fewest(typical_distances(scores, weights), weights, share=p, rest=0.0)


def _top_p(scores: Scores, rest: float, *, p: float) -> Indices:
    return _fewest(-scores, np.exp(scores), share=p, rest=rest)


def _min_p(scores: Scores, rest: float, *, p: float) -> Indices:  # noqa: ARG001 - the best score is always there
    return np.flatnonzero(scores >= min_p_floor(p))


def min_p_floor(p: float) -> float:
    """Min-p: how far below the best score a token may be."""
    return min(0.0, math.log(p))


def xtc(scores: Scores, rest: float, threshold: float) -> Indices | None:
    """XTC: the indices of all tokens but the likeliest, where several reach `threshold`; None for all."""
    weights = np.exp(scores)
    total = float(weights.sum(dtype=np.float64))
    # A token that a mask has forbidden is no candidate, however low the threshold.
    is_top = (weights >= threshold * total) & (scores > -math.inf)
    if rest and (threshold * total <= rest or bool((is_top != (weights >= threshold * (total + rest))).any())):
        raise Unsure
    top = np.flatnonzero(is_top)
    if top.size < 2:
        return None
    is_top[top[scores[top].argmin()]] = False
    return np.flatnonzero(~is_top)


def _fewest(distances: Scores, weights: Scores, *, share: float, rest: float) -> Indices:
    """The fewest indices, nearest first, whose weights add up to `share` of all; `rest` is behind the last of them."""
    total = float(weights.sum(dtype=np.float64))
    least, most = share * total, share * (total + rest)
    if rest and most >= total:
        raise Unsure
    inside, between = _bracket(distances, weights, least, most)
    order = between[np.argsort(distances[between], kind="stable")]
    reached = float(weights[inside].sum(dtype=np.float64)) + np.cumsum(weights[order], dtype=np.float64)
    last = int(np.searchsorted(reached, least))
    if rest and int(np.searchsorted(reached, most)) != last:
        raise Unsure
    return np.concatenate((inside, order[: last + 1]))


def _bracket(distances: Scores, weights: Scores, least: float, most: float) -> tuple[Indices, Indices]:
    """The nearest indices, that have less than `least` of the weight, and further ones, with which it is `most`.

    Only the further ones must be sorted. To sort a whole vocabulary takes a hundred times longer than to add it up.
    """
    if distances.size <= _SORTED:
        return np.empty(0, np.intp), np.arange(distances.size)
    bounds = np.unique(distances[:: distances.size // _SAMPLE])

    def weight_within(number: int) -> float:
        return float(np.dot(weights, (distances <= bounds[number]).astype(np.float32)))

    inner = bisect_left(range(bounds.size), least * (1 - _ROUNDING), key=weight_within) - 1
    outer = bisect_left(range(bounds.size), most * (1 + _ROUNDING), lo=max(inner, 0), key=weight_within)
    is_inside = distances <= bounds[inner] if inner >= 0 else np.zeros(distances.size, np.bool_)
    is_between = ~is_inside
    if outer < bounds.size:
        is_between &= distances <= bounds[outer]
    return np.flatnonzero(is_inside), np.flatnonzero(is_between)


class Share:
    """The tokens that top-p or typical-p keeps of a whole row, without looking for all of them.

    In a flat row, to sort the tokens takes fifty times longer than to draw one and to ask whether that one is kept.
    """

    def __init__(self, keys: Scores, weights: Scores, wanted: float, *, is_descending: bool, scratch: Scores) -> None:
        """The kept tokens are the fewest, in the order of `keys`, that weigh `wanted` together.

        `scratch` is a row that nobody else uses.
        """
        self._keys: Final = keys
        self._weights: Final = weights
        self._scratch: Final = scratch
        self._is_before: Final = np.greater if is_descending else np.less
        self._is_not_behind: Final = np.greater_equal if is_descending else np.less_equal
        # Above zero, so that the first token is kept whatever the share.
        self._wanted: Final = max(wanted, float(np.finfo(np.float32).tiny))

    def holds(self, index: int) -> bool:
        """Whether the token is kept. Of tokens with equal keys those with a lower index come first."""
        key, weight = self._keys[index], float(self._weights[index])
        if self._weight_of(self._is_not_behind(self._keys, key)) - weight < self._wanted:
            return True
        before = self._weight_of(self._is_before(self._keys, key))
        equal = self._weights[:index][self._keys[:index] == key]
        return before + float(equal.sum(dtype=np.float64)) < self._wanted

    def remove(self, index: int, weights: Scores) -> None:
        """Set to 0 in `weights` the token at `index`, which is not kept, and all that come after it."""
        key = self._keys[index]
        weights *= self._is_not_behind(self._keys, key)
        weights[index:][self._keys[index:] == key] = 0

    def _weight_of(self, mask: npt.NDArray[np.bool_]) -> float:
        np.copyto(self._scratch, mask)
        return float(np.dot(self._scratch, self._weights))


def typical_distances(scores: Scores, weights: Scores) -> Scores:
    """Typical-p: how far each token's information is from the expected information, the entropy.

    The weights of tokens that filters have taken away are 0.
    """
    mean = float(np.dot(weights, scores))
    if not math.isfinite(mean):  # a token that cannot come adds nothing to the entropy
        mean = float(np.dot(weights, np.maximum(scores, np.float32(-1e4))))
    distances = scores - np.float32(mean / float(weights.sum()))
    np.abs(distances, out=distances)
    return distances
