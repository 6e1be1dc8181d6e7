"""Draws a token from a row of scores: filters, temperature, chance. Pure numpy; remembers only its random numbers.

The cost follows the shape of the row. In most rows few tokens have nearly all the weight. One comparison finds these
tokens, and everything else is computed for them alone. In a flat row no token can be left out. There a token is drawn
first, and a sum over the row says whether the filters keep that token. Both ways draw every token exactly as often as
its probability says.
"""

import math
from random import Random
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from neuron_lib.sampling.filters import (
    Indices,
    Scores,
    Share,
    Unsure,
    filters,
    min_p_floor,
    reduce_weights,
    sigma_floor,
    top_k,
    typical_distances,
    xtc,
)
from neuron_lib.types import Sampling

__all__ = ("Lottery",)

_BLOCK: Final = 256
_BLOCK_OF_ONES: Final = np.ones(_BLOCK, np.float32)
_HOTTEST: Final = 1e30
"""Temperatures above this one make no difference: all possible tokens are equally likely."""
_SMALL: Final = 4096
"""Rows with at most this many tokens are never shortened."""
_FEW: Final = 1 / 32
"""The largest part of a row that is worth gathering. For more tokens computing the whole row is as fast."""
_SMALL_SCORE: Final = 40.0
"""For a best score up to this, `exp` of all scores that matter is far from both ends of 32-bit numbers."""
_MARGIN: Final = 8.0
"""All tokens that are left out weigh together at most `exp(-8)` times the best one."""


class _Few(NamedTuple):
    """The likeliest tokens of a row: their scores minus `best`, the highest score, and their indices.

    The indices are None if these are all tokens. `left_out` more tokens of the row may be drawn as well. Their scores
    lie between `floor` and `cut`.
    """

    best: float
    scores: Scores
    ids: Indices | None
    left_out: int = 0
    cut: float = -math.inf
    floor: float = -math.inf

    def at(self, indices: Indices) -> Self:
        """The tokens at `indices`."""
        return self._replace(scores=self.scores[indices], ids=indices if self.ids is None else self.ids[indices])

    def below_the_best(self) -> Self:
        """The same after XTC has removed the best tokens. `best` is the highest score that is left."""
        fall = float(self.scores.max())
        return self._replace(best=self.best + fall, scores=self.scores - np.float32(fall))

    def rest(self, temperature: float = 1.0) -> float:
        """The most that the left-out tokens can weigh, if `best` weighs 1."""
        return self.left_out * math.exp((self.cut - self.best) / temperature) if self.left_out else 0.0


class Lottery:
    """Draws the tokens of one sequence. The same seed and the same rows give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        """`sampling` has a temperature above 0."""
        self._sampling: Final = sampling
        self._temperature: Final = min(sampling.temperature, _HOTTEST)
        self._random: Final = Random(sampling.seed)  # noqa: S311 - a client may ask for the same numbers again
        self._filters: Final = filters(sampling)
        self._cools_top_p: Final = sampling.top_p < 1 <= sampling.typical_p and self._temperature < 1
        self._buffers: Final = [np.empty(0, np.float32) for _ in range(3)]

    def draw(self, row: Scores, best: float) -> int:
        """A token, as an index into `row`, which is only read. `best` is its highest score, finite; none is NaN."""
        strikes = self._sampling.xtc_probability > 0 and self._random.random() < self._sampling.xtc_probability
        few = self._few(row, best)
        if few is not None:
            try:
                return self._draw_from_few(row, self._filtered(few, strikes=strikes))
            except Unsure:
                pass
        return self._draw_from_all(row, best, strikes=strikes)

    def _floor(self, row: Scores, best: float) -> float:
        """The lowest score that a token may have, by the filters that need no sum and come before those that do."""
        floor = best + sigma_floor(row, self._sampling.top_n_sigma) if self._sampling.top_n_sigma > 0 else -math.inf
        if self._sampling.min_p > 0 and not self._filters:
            floor = max(floor, best + min_p_floor(self._sampling.min_p))
        return floor

    # ---------------------------------------------------------------------------------------------------- few tokens

    def _few(self, row: Scores, best: float) -> _Few | None:
        """The likeliest of the tokens that top-n-sigma and top-k keep. None if there are too many of them."""
        size, k = row.size, self._sampling.top_k
        needs_all = self._sampling.typical_p < 1  # the entropy depends on every token
        most = size if size <= _SMALL else int(size * _FEW)
        floor, cut, ids = self._floor(row, best), -math.inf, None
        if 0 < k < size:
            if k > most:
                return None
            ids = top_k(row, k)
            ids = ids[row[ids] >= floor]
        elif size > _SMALL and needs_all:
            return None
        elif size > _SMALL or floor > -math.inf:
            if size > _SMALL:
                cut = best - (math.log(size) + _MARGIN) * max(1.0, self._temperature)
            is_near = row >= np.float32(max(floor, cut))
            if np.count_nonzero(is_near) > most:
                return None
            ids = np.flatnonzero(is_near)
        scores = (row if ids is None else row[ids]) - np.float32(best)
        left_out = size - scores.size if cut > floor else 0
        return _Few(best, scores, ids, left_out=left_out, cut=cut, floor=floor)

    def _filtered(self, few: _Few, *, strikes: bool) -> _Few:
        """The tokens that all further filters keep. Raises `Unsure`."""
        for keep in self._filters:
            few = few.at(keep(few.scores, few.rest())).below_the_best()._replace(left_out=0)
        kept = xtc(few.scores, few.rest(), self._sampling.xtc_threshold) if strikes else None
        return few if kept is None else few.at(kept).below_the_best()

    def _draw_from_few(self, row: Scores, few: _Few) -> int:
        weights = np.exp(few.scores * np.float32(1 / self._temperature))
        reached = np.cumsum(weights, dtype=np.float64)
        total = float(reached[-1])
        chance = self._random.random() * (total + few.rest(self._temperature))
        if chance >= total:
            return self._draw_from_rest(row, few, chance - total)
        chosen = int(np.searchsorted(reached, chance, side="right"))
        return chosen if few.ids is None else int(few.ids[chosen])

    def _draw_from_rest(self, row: Scores, few: _Few, chance: float) -> int:
        """Draw one of the left-out tokens. A `chance` above their real weight, and below their bound, draws anew."""
        weights = np.exp((row - np.float32(few.best)) * np.float32(1 / self._temperature))
        weights[(row >= np.float32(few.cut)) | (row < np.float32(few.floor))] = 0
        reached = np.cumsum(weights, dtype=np.float64)
        if chance >= reached[-1]:
            return self._draw_from_few(row, few)
        return int(np.searchsorted(reached, chance, side="right"))

    # ---------------------------------------------------------------------------------------------------- whole rows

    def _draw_from_all(self, row: Scores, best: float, *, strikes: bool) -> int:
        sampling, floor = self._sampling, self._floor(row, best)
        if self._cools_top_p and not strikes:
            return self._draw_cooled(row, best, floor)
        share: Share | None = None
        weights: Scores | None = None
        if self._filters or strikes:
            weights = self._weights(row, best, 1.0, floor, buffer=0)
            total = kept = _total(weights)
            if self._filters:
                kept = total * min(sampling.typical_p, sampling.top_p)
                share = self._share(row, weights[: row.size], kept)
            strikes = strikes and int(np.count_nonzero(weights >= sampling.xtc_threshold * kept)) > 1
        # Typical-p may take the best token away, and the next filter begins from what is left.
        needs_two_sums = sampling.typical_p < 1 and len(self._filters) > 1
        if strikes or 0 < sampling.top_k < row.size:
            return self._draw_from_few(row, self._filtered(self._all(row, best, floor), strikes=strikes))
        if needs_two_sums:
            return self._draw_reduced(row, best, floor)
        if weights is None or self._temperature != 1:
            weights = self._weights(row, best, self._temperature, floor, buffer=1)
        if share is not None and sampling.min_p > 0:
            weights[: row.size] *= row >= np.float32(best + min_p_floor(sampling.min_p))
        while True:
            chosen = _pick(weights, self._random.random())
            if share is None or share.holds(chosen):
                return chosen
            share.remove(chosen, weights[: row.size])

    def _draw_reduced(self, row: Scores, best: float, floor: float) -> int:
        """Draw from what typical-p and the filters after it keep, each of what the one before has kept."""
        weights = self._weights(row, best, 1.0, floor, buffer=0)
        reduce_weights(row, weights[: row.size], self._sampling)
        if self._temperature != 1:
            kept = weights > 0
            weights = self._weights(row, best, self._temperature, floor, buffer=1)
            weights *= kept
        return _pick(weights, self._random.random())

    def _draw_cooled(self, row: Scores, best: float, floor: float) -> int:
        """Draw from what top-p keeps, at a temperature below 1.

        The colder it is, the more of the weight belongs to the likeliest tokens. So top-p keeps every token that it
        would keep of the cooled row, which is most draws. Only the other draws need the weights at temperature 1.
        """
        cooled = self._weights(row, best, self._temperature, floor, buffer=1)
        if self._sampling.min_p > 0:
            cooled[: row.size] *= row >= np.float32(best + min_p_floor(self._sampling.min_p))
        chosen = _pick(cooled, self._random.random())
        if self._share(row, cooled[: row.size], _total(cooled) * self._sampling.top_p).holds(chosen):
            return chosen
        weights = self._weights(row, best, 1.0, floor, buffer=0)
        share = self._share(row, weights[: row.size], _total(weights) * self._sampling.top_p)
        while not share.holds(chosen):
            share.remove(chosen, cooled[: row.size])
            chosen = _pick(cooled, self._random.random())
        return chosen

    def _share(self, row: Scores, weights: Scores, wanted: float) -> Share:
        """The tokens that top-p or typical-p keeps, if only one of the two is set."""
        scratch = self._buffer(2, row.size)[: row.size]
        if self._sampling.top_p < 1:
            return Share(row, weights, wanted, is_descending=True, scratch=scratch)
        return Share(typical_distances(row, weights), weights, wanted, is_descending=False, scratch=scratch)

    def _all(self, row: Scores, best: float, floor: float) -> _Few:
        """All tokens that top-n-sigma and top-k keep. This is the slow way, for rare mixtures of filters."""
        few = _Few(best, row - np.float32(best), None)
        if floor > -math.inf:
            few = few.at(np.flatnonzero(row >= np.float32(floor)))
        return few.at(top_k(few.scores, self._sampling.top_k)) if 0 < self._sampling.top_k < few.scores.size else few

    def _weights(self, row: Scores, best: float, temperature: float, floor: float, *, buffer: int) -> Scores:
        """The weight of each token that is not below `floor`, in whole blocks. Zeros fill the last block.

        All weights may have a common factor. If the best score is small, it need not be subtracted: the weights are
        exact enough without.
        """
        weights = self._buffer(buffer, row.size)
        used = weights[: row.size]
        shifted = row
        if abs(best) > _SMALL_SCORE * min(1.0, temperature):
            shifted = np.subtract(row, np.float32(best), out=used)
        if temperature != 1:
            shifted = np.multiply(shifted, np.float32(1 / temperature), out=used)
        np.exp(shifted, out=used)
        if floor > -math.inf:
            used *= row >= np.float32(floor)
        weights[row.size :] = 0
        return weights

    def _buffer(self, number: int, size: int) -> Scores:
        """Room for a row in whole blocks. It is reused: new pages for each row take several times the arithmetic."""
        padded = -(-size // _BLOCK) * _BLOCK
        if self._buffers[number].size != padded:
            self._buffers[number] = np.empty(padded, np.float32)
        return self._buffers[number]


def _total(weights: Scores) -> float:
    """The sum of `weights`, whole blocks."""
    return float((weights.reshape(-1, _BLOCK) @ _BLOCK_OF_ONES).sum(dtype=np.float64))


def _pick(weights: Scores, chance: float) -> int:
    """The index at which the running sum of `weights`, whole blocks, passes `chance` (0 to 1) of their total."""
    # First over sums of blocks, then inside one block: a running sum over a vocabulary takes far longer.
    blocks = (weights.reshape(-1, _BLOCK) @ _BLOCK_OF_ONES).cumsum(dtype=np.float64)
    wanted = chance * float(blocks[-1])
    block = _passes(blocks, wanted)
    inside = weights[block * _BLOCK : (block + 1) * _BLOCK].cumsum(dtype=np.float64)
    return block * _BLOCK + _passes(inside, wanted - (float(blocks[block - 1]) if block else 0.0))


def _passes(running: npt.NDArray[np.float64], wanted: float) -> int:
    """The first index at which the `running` sum is above `wanted`. The token at this index has a weight above 0."""
    # The two levels round differently, so `wanted` may be slightly beyond the end.
    return int(np.searchsorted(running, min(wanted, np.nextafter(running[-1], 0.0)), side="right"))
