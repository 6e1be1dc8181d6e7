"""The filters that choose the candidates for a draw: top-n-sigma, top-k, typical-p, top-p, min-p, XTC. Pure.

Scores are float32 of shape (n,). The highest of a row is 0 and none is NaN. A token with a score of minus infinity
cannot come. The weight of a token is `exp(score)`. Every filter reads the scores before the temperature, as in
llama.cpp.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import cache, partial
from typing import Final, NamedTuple, TypeAlias

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
    "reduce_weights",
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
_TINY: Final = float(np.finfo(np.float32).tiny)


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
    if rest and share * (total + rest) >= total:
        raise Unsure
    end = _reach(distances, weights, share * total)
    if rest and _reach(distances, weights, share * (total + rest)) != end:
        raise Unsure
    return np.flatnonzero(_up_to(distances, end))


class _End(NamedTuple):
    """Where a set of tokens ends, in the order of their keys: `number` tokens with the last `key` are in the set."""

    key: float
    number: int


def _reach(keys: Scores, weights: Scores, wanted: float) -> _End:
    """The end of the smallest set, lowest keys first, whose weights add up to `wanted`. The set has a weight above 0.

    Sorting a whole vocabulary takes a hundred times longer than adding it up. So only the tokens between two keys of a
    sample are sorted.
    """
    wanted, before = max(wanted, _TINY), 0.0
    if keys.size > _SORTED:
        low, high = _around(keys, weights, wanted)
        is_before = keys <= low
        before = float((weights * is_before).sum(dtype=np.float64))
        left = np.flatnonzero((keys <= high) > is_before)
        keys, weights = keys[left], weights[left]
    order = np.argsort(keys, kind="stable")
    reached = before + np.cumsum(weights[order], dtype=np.float64)
    last = min(int(np.searchsorted(reached, wanted)), order.size - 1)
    key = keys[order[last]]
    return _End(float(key), last + 1 - int(np.searchsorted(keys[order], key)))


def _around(keys: Scores, weights: Scores, wanted: float) -> tuple[np.float32, np.float32]:
    """Two keys with few tokens between them. The tokens up to the first weigh less than `wanted`, up to the second at
    least as much.
    """
    sample = slice(None, None, keys.size // _SAMPLE)
    order = np.argsort(keys[sample])
    bounds = np.concatenate(([-math.inf], keys[sample][order], [math.inf])).astype(np.float32)
    reached = np.cumsum(weights[sample][order], dtype=np.float64)

    @cache
    def weight_up_to(number: int) -> float:
        return float(np.dot(weights, (keys <= bounds[number]).astype(np.float32)))

    guess = 1 + int(np.searchsorted(reached, wanted / float(weights.sum()) * reached[-1]))
    inner = _first(lambda number: weight_up_to(number) >= wanted * (1 - _ROUNDING), bounds.size - 1, guess=guess)
    outer = _first(lambda number: weight_up_to(number) >= wanted * (1 + _ROUNDING), bounds.size - 1, guess=inner)
    return bounds[max(inner - 1, 0)], bounds[outer]


def _first(holds: Callable[[int], bool], end: int, *, guess: int) -> int:
    """The first number from 0 at which `holds` is true, as it is for all numbers after it; `end` if there is none.

    `guess` is at most `end`. The nearer it is, the fewer numbers are tried.
    """
    low, high, step = guess, guess, 1
    while low > 0 and holds(low - 1):
        high = low - 1
        low, step = max(low - step - 1, 0), step * 2
    if low == high == guess:
        while high < end and not holds(high):
            low, high, step = high + 1, min(high + step, end), step * 2
    return bisect_left(range(end), True, lo=low, hi=high, key=holds)


def _up_to(keys: Scores, end: _End) -> npt.NDArray[np.bool_]:
    """Whether each token is in the set that ends there. Of tokens with equal keys the lower index comes first."""
    key = np.float32(end.key)
    is_in = keys < key
    is_in[np.flatnonzero(keys == key)[: end.number]] = True
    return is_in


def reduce_weights(row: Scores, weights: Scores, sampling: Sampling) -> None:
    """Set to 0 in `weights` all tokens that typical-p, top-p or min-p takes away, one filter after the other.

    `weights` has the weight of each token of `row` and a sum above 0, and keeps one above 0.
    """
    if sampling.typical_p < 1:
        distances = typical_distances(row, weights)
        weights *= _up_to(distances, _reach(distances, weights, sampling.typical_p * float(weights.sum())))
    if sampling.top_p < 1:
        falling = -row
        weights *= _up_to(falling, _reach(falling, weights, sampling.top_p * float(weights.sum())))
    if sampling.min_p > 0:
        best = float(np.max(row, where=weights > 0, initial=-math.inf))
        weights *= row >= np.float32(best + min_p_floor(sampling.min_p))


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
        self._wanted: Final = max(wanted, _TINY)

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
