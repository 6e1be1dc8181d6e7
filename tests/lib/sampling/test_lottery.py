"""Draws of few tokens and draws of whole rows: both are as the probabilities say."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from neuron_lib.sampling import lottery as lotteries
from neuron_lib.sampling.filters import Scores, reduce_weights
from neuron_lib.sampling.lottery import Lottery
from neuron_lib.types import Sampling

DRAWS = 3000
SIZE = 8192


def flat(seed: int = 1, *, spread: float = 0.5) -> Scores:
    return np.random.default_rng(seed).normal(0, spread, SIZE).astype(np.float32)


def draws(row: Scores, **options: Any) -> list[int]:
    lottery = Lottery(Sampling(**{"temperature": 1.0, "seed": 7} | options))
    best = float(row.max())
    return [lottery.draw(row, best) for _ in range(DRAWS)]


def nucleus(row: Scores, share: float) -> set[int]:
    """The fewest tokens that have `share` of the probability, the likeliest first, of equal ones the lower index."""
    order = np.argsort(-row, kind="stable")
    weights = np.exp(row[order].astype(np.float64) - row.max())
    count = int(np.searchsorted(np.cumsum(weights), share * weights.sum())) + 1
    return set(order[:count].tolist())


@pytest.fixture
def leaves_much_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tokens that are left out may weigh as much as the best."""
    monkeypatch.setattr(lotteries, "_MARGIN", 0.0)


@pytest.mark.usefixtures("leaves_much_out")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
def test_tokens_that_are_left_out_are_drawn_as_often_as_they_should(temperature: float) -> None:
    row = np.full(SIZE, -temperature * (math.log(SIZE) + 0.5), np.float32)
    row[7] = 0
    weight = (SIZE - 1) * math.exp(-math.log(SIZE) - 0.5)
    drawn = draws(row, temperature=temperature)
    assert drawn.count(7) / DRAWS == pytest.approx(1 / (1 + weight), abs=0.03)
    assert len(set(drawn)) > DRAWS / 4


@pytest.mark.usefixtures("leaves_much_out")
def test_nothing_is_drawn_that_is_below_the_floor() -> None:
    row = np.full(SIZE, -math.log(SIZE) - 0.5, np.float32)
    row[: SIZE // 2] -= 5
    row[7] = 0
    drawn = set(draws(row, min_p=math.exp(-math.log(SIZE) - 2)))
    assert 7 in drawn
    assert len(drawn) > 100
    assert all(token == 7 or token >= SIZE // 2 for token in drawn)


@pytest.mark.usefixtures("leaves_much_out")
def test_the_likeliest_that_do_not_know_what_top_p_keeps_ask_the_whole_row() -> None:
    row = np.full(SIZE, -math.log(SIZE) - 0.5, np.float32)
    row[7] = 0
    drawn = draws(row, top_p=0.8)
    assert set(drawn) <= nucleus(row, 0.8)
    assert len(set(drawn)) > DRAWS / 8


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_top_p_of_a_flat_row_draws_what_it_keeps(share: float, temperature: float) -> None:
    row = flat()
    kept = nucleus(row, share)
    drawn = draws(row, top_p=share, temperature=temperature)
    assert set(drawn) <= kept
    halves = np.array(sorted(kept, key=row.__getitem__))[len(kept) // 2 :]
    weights = np.exp(row[list(kept)].astype(np.float64) / temperature)
    expected = np.exp(row[halves].astype(np.float64) / temperature).sum() / weights.sum()
    assert np.isin(drawn, halves).mean() == pytest.approx(expected, abs=0.04)


def test_top_p_of_equal_tokens_keeps_those_with_the_lower_index() -> None:
    drawn = draws(np.zeros(SIZE, np.float32), top_p=0.25)
    assert SIZE / 5 < max(drawn) <= SIZE / 4


def test_min_p_of_a_flat_row_comes_after_top_p() -> None:
    row = flat(spread=2.0)
    drawn = set(draws(row, top_p=0.9, min_p=0.05))
    assert drawn <= {token for token in nucleus(row, 0.9) if row[token] - row.max() >= math.log(0.05)}


def test_typical_p_of_a_flat_row_draws_what_is_nearest_to_the_entropy() -> None:
    row = flat()
    weights = np.exp(row.astype(np.float64))
    distances = np.abs(row - (weights * row).sum() / weights.sum())
    order = np.argsort(distances)
    count = int(np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum())) + 1
    drawn = set(draws(row, typical_p=0.5))
    assert drawn <= set(order[: count + 1].tolist())
    assert len(drawn) > count / 4


def test_typical_p_and_top_p_of_a_flat_row_are_applied_one_after_the_other() -> None:
    row = flat(spread=1.0)
    drawn = set(draws(row, typical_p=0.6, top_p=0.5))
    typical = set(draws(row, typical_p=0.6))
    likeliest = float(np.quantile(row[list(typical)], 0.2))
    assert all(row[token] > likeliest for token in drawn)


def test_xtc_finds_nothing_to_take_away_in_a_flat_row() -> None:
    row = flat()
    assert draws(row, xtc_probability=1.0, top_p=0.9) == draws(row, xtc_probability=1.0, top_p=0.9)
    assert set(draws(row, xtc_probability=1.0, top_p=0.9)) <= nucleus(row, 0.9)


def test_xtc_takes_the_likeliest_of_a_long_row_away() -> None:
    row = np.full(SIZE, -9.0, np.float32)
    row[[3, 5, 7]] = 2.0, 1.5, 1.0
    counts = Counter(draws(row, xtc_probability=1.0, xtc_threshold=0.1))
    assert counts[3] == counts[5] == 0
    assert counts[7] / DRAWS == pytest.approx(math.e / (math.e + (SIZE - 3) * math.exp(-9)), abs=0.04)


@pytest.mark.parametrize("best", [-90.0, -30.0, 30.0, 90.0])
@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_the_level_of_all_scores_does_not_matter(best: float, temperature: float) -> None:
    row = flat()
    level = np.float32(best - row.max())
    drawn = draws(row + level, top_p=0.5, temperature=temperature)
    assert set(drawn) <= nucleus(row + level, 0.5)
    assert len(set(drawn)) == 1 if temperature < 0.1 else len(set(drawn)) > DRAWS / 4


@pytest.mark.parametrize("k", [1, 40, 1000, SIZE - 1])
def test_top_k_of_equal_tokens_takes_no_more_than_k(k: int) -> None:
    drawn = set(draws(np.zeros(SIZE, np.float32), top_k=k))
    assert max(drawn) < k


def test_a_mask_that_leaves_fewer_than_k_is_kept() -> None:
    row = np.full(SIZE, -math.inf, np.float32)
    row[[3, 5]] = 1.0, 1.0
    assert set(draws(row, top_k=40)) == {3, 5}
    assert set(draws(row, top_p=0.9, temperature=2.0)) == {3, 5}


@pytest.mark.parametrize("size", [4, SIZE])
def test_min_p_is_measured_from_the_best_that_typical_p_leaves(size: int) -> None:
    row = np.zeros(size, np.float32)
    row[0] = 1.0
    lottery = Lottery(Sampling(temperature=0.7, seed=1, typical_p=1e-300, min_p=0.5))
    assert 1 <= lottery.draw(row, 1.0) < size


@pytest.mark.parametrize("spread", [0.01, 0.5, 3.0])
@pytest.mark.parametrize(("typical", "share", "least"), [(0.6, 0.5, 0.0), (0.95, 0.95, 0.3), (0.2, 1.0, 0.1)])
def test_filters_of_a_whole_row_keep_what_sorting_would_keep(
    *, spread: float, typical: float, share: float, least: float
) -> None:
    row = flat(spread=spread)
    weights = np.exp(row.astype(np.float64))
    distances = np.abs(row - (weights * row).sum() / weights.sum())
    nearest = np.argsort(distances, kind="stable")
    count = int(np.searchsorted(np.cumsum(weights[nearest]), typical * weights.sum())) + 1
    kept = np.sort(nearest[:count])
    if share < 1:
        kept = kept[sorted(nucleus(row[kept], share))]
    if least:
        kept = kept[row[kept] >= row[kept].max() + math.log(least)]
    reduced = np.exp(row)
    reduce_weights(row, reduced, Sampling(temperature=1, seed=1, typical_p=typical, top_p=share, min_p=least))
    # The sums are rounded in another way, so one token at each end may differ.
    assert len(set(np.flatnonzero(reduced).tolist()) ^ set(kept.tolist())) <= 3
    np.testing.assert_array_equal(reduced[reduced > 0], np.exp(row)[reduced > 0])
