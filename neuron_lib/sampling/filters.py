"""The filters that choose the candidates for a draw: top-n-sigma, top-k, typical-p, top-p, min-p, XTC. Pure.

Scores are float32 of shape (n,). The highest of a row is 0 and none is NaN. A token with a score of minus infinity
cannot come. The weight of a token is `exp(score)`. Every filter reads the scores before the temperature, as in
llama.cpp.
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
"""`filter(scores, rest)` returns the indices to keep, in no order, at least one.

`scores` may lack the least likely tokens of the row. Their weight together is at most `rest`. Raises `Unsure` if the
answer depends on them.
"""

_COLUMNS: Final = 1024
_SORTED: Final = 2048
"""So many scores are sorted faster than they are searched."""
_SAMPLE: Final = 512
_ROUNDING: Final = 1e-5
"""The relative error of a sum over a vocabulary in 32 bits is smaller."""


class Unsure(Exception):
    """Some tokens were left out, and the filter needs their scores."""


def filters(sampling: Sampling) -> tuple[Filter, ...]:
    """The filters of `sampling` between top-k and XTC, in llama.cpp's order, if one of them needs a sum over the row.

    If none needs a sum, there are none: then min-p is a floor like top-n-sigma (`min_p_floor`).
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
    """Top-n-sigma: the lowest kept score, relative to the best: minus `n` standard deviations of possible scores."""
    spread = float(row.std())
    if not math.isfinite(spread):
        spread = float(row[row > -math.inf].std())
    return -n * spread


def top_k(row: Scores, k: int) -> Indices:
    """The indices of the `k` highest scores of `row`, highest first. Of equal scores the lower index comes first.

    `k` is at least 1 and at most the size of `row`. Tokens that cannot come are left out if another one can.
    """
    least = _reached_by(row, k)
    is_candidate = row >= least
    if np.count_nonzero(is_candidate) <= 2 * (k + _COLUMNS):
        candidates = np.flatnonzero(is_candidate)
    else:  # many have the same score, or a mask has left few
        candidates = np.flatnonzero(row > least)
        missing = k - candidates.size
        if missing > 0 and (least > -math.inf or missing == k):
            candidates = np.concatenate((candidates, np.flatnonzero(row == least)[:missing]))
    order = np.argsort(-row[candidates], kind="stable")
    return candidates[order[:k]]


def _reached_by(scores: Scores, count: int) -> np.float32:
    """A score that at least `count` of `scores` reach, and not many more. `count` is at most their number."""
    if count < _COLUMNS <= scores.size:
        # The maxima of so many columns are as many different scores, and a far smaller array to search.
        scores = scores[: scores.size // _COLUMNS * _COLUMNS].reshape(-1, _COLUMNS).max(axis=0)
    return np.float32(np.partition(scores, -count)[-count])


def _typical_p(scores: Scores, rest: float, *, p: float) -> Indices:
    if rest:
        raise Unsure  # the entropy depends on every token
    weights = np.exp(scores)
    return _fewest(typical_distances(scores, weights), weights, share=p, rest=0.0)


def _top_p(scores: Scores, rest: float, *, p: float) -> Indices:
    return _fewest(-scores, np.exp(scores), share=p, rest=rest)


def _min_p(scores: Scores, rest: float, *, p: float) -> Indices:  # noqa: ARG001 - only the best score counts, and that is never left out
    return np.flatnonzero(scores >= min_p_floor(p))


def min_p_floor(p: float) -> float:
    """Min-p: the lowest kept score, relative to the best."""
    return min(0.0, math.log(p))


def xtc(scores: Scores, rest: float, threshold: float) -> Indices | None:
    """XTC: if several tokens reach `threshold`, the indices of all tokens but these; the least likely of these is kept
    too.

    None: all tokens are kept. Raises `Unsure`.
    """
    weights = np.exp(scores)
    total = float(weights.sum(dtype=np.float64))
    # A token that a mask has forbidden is not a candidate, however low the threshold is.
    is_top = (weights >= threshold * total) & (scores > -math.inf)
    if rest and (threshold * total <= rest or bool((is_top != (weights >= threshold * (total + rest))).any())):
        raise Unsure
    top = np.flatnonzero(is_top)
    if top.size < 2:
        return None
    is_top[top[scores[top].argmin()]] = False
    return np.flatnonzero(~is_top)


def _fewest(distances: Scores, weights: Scores, *, share: float, rest: float) -> Indices:
    """The smallest set of indices, nearest first, whose weights add up to `share` of all. `rest` lies behind the last
    of them.
    """
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
    """The nearest indices with less than `least` of the weight, and further ones with which it reaches `most`.

    Only the further ones must be sorted. Sorting a whole vocabulary takes a hundred times longer than adding it up.
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
    """The tokens that top-p or typical-p keeps of a whole row, without searching all of them.

    In a flat row sorting the tokens takes fifty times longer than drawing one and asking whether it is kept.
    """

    def __init__(self, keys: Scores, weights: Scores, wanted: float, *, is_descending: bool, scratch: Scores) -> None:
        """The kept tokens are the first ones in the order of `keys` whose weights add up to `wanted`.

        `scratch` is a row that is overwritten. No other code may use it meanwhile.
        """
        self._keys: Final = keys
        self._weights: Final = weights
        self._scratch: Final = scratch
        self._is_before: Final = np.greater if is_descending else np.less
        self._is_not_behind: Final = np.greater_equal if is_descending else np.less_equal
        # Above zero, so that the first token is kept whatever the share is.
        self._wanted: Final = max(wanted, float(np.finfo(np.float32).tiny))

    def holds(self, index: int) -> bool:
        """Whether the token is kept. Of tokens with equal keys the one with the lower index comes first."""
        key, weight = self._keys[index], float(self._weights[index])
        if self._weight_of(self._is_not_behind(self._keys, key)) - weight < self._wanted:
            return True
        before = self._weight_of(self._is_before(self._keys, key))
        equal = self._weights[:index][self._keys[:index] == key]
        return before + float(equal.sum(dtype=np.float64)) < self._wanted

    def remove(self, index: int, weights: Scores) -> None:
        """Set to 0 in `weights` the token at `index`, which is not kept, and all tokens after it."""
        key = self._keys[index]
        weights *= self._is_not_behind(self._keys, key)
        weights[index:][self._keys[index:] == key] = 0

    def _weight_of(self, mask: npt.NDArray[np.bool_]) -> float:
        np.copyto(self._scratch, mask)
        return float(np.dot(self._scratch, self._weights))


def typical_distances(scores: Scores, weights: Scores) -> Scores:
    """Typical-p: the distance of each token's information from the expected information, which is the entropy.

    The weights of tokens that filters have removed are 0.
    """
    mean = float(np.dot(weights, scores))
    if not math.isfinite(mean):  # a token that cannot come adds nothing to the entropy
        mean = float(np.dot(weights, np.maximum(scores, np.float32(-1e4))))
    distances = scores - np.float32(mean / float(weights.sum()))
    np.abs(distances, out=distances)
    return distances
