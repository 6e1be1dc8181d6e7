import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.llama.sampler import SamplerChain
from neuron_lib.types import Sampling

Scores = npt.NDArray[np.float32]
DRAWS = 4000

finite_scores = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=700).map(
    lambda values: np.array(values, np.float32)
)
anything = st.floats(allow_nan=False, width=32)


def row(*values: float) -> Scores:
    return np.array(values, np.float32)


def shares(sampling: Sampling, scores: Scores) -> npt.NDArray[np.float64]:
    """How often each token is drawn, of 1."""
    chain = SamplerChain(sampling, history=())
    counts = Counter(chain.sample(scores) for _ in range(DRAWS))
    return np.array([counts[token] for token in range(len(scores))]) / DRAWS


def softmax(scores: Scores, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    weights = np.exp(scores.astype(np.float64) / temperature)
    return np.asarray(weights / weights.sum())


@given(finite_scores)
def test_without_temperature_the_highest_score_wins(scores: Scores) -> None:
    assert SamplerChain(Sampling(temperature=0, seed=1), history=()).sample(scores) == int(scores.argmax())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature: float) -> None:
    scores = row(*np.linspace(-2, 2, 9))
    drawn = shares(Sampling(temperature=temperature, seed=3), scores)
    assert drawn == pytest.approx(softmax(scores, temperature), abs=0.03)


def test_a_vocabulary_of_many_blocks_is_drawn_from_evenly() -> None:
    tokens = 1000
    chain = SamplerChain(Sampling(temperature=1, seed=5), history=())
    drawn = np.array([chain.sample(np.zeros(tokens, np.float32)) for _ in range(DRAWS)])
    assert np.histogram(drawn, bins=10, range=(0, tokens))[0] / DRAWS == pytest.approx(np.full(10, 0.1), abs=0.03)
    assert len(set(drawn)) > tokens / 2


@given(finite_scores, st.integers(1, 20), st.integers(0, 2**64))
def test_top_k_draws_from_the_k_highest(scores: Scores, top_k: int, seed: int) -> None:
    token = SamplerChain(Sampling(temperature=5, seed=seed, top_k=top_k), history=()).sample(scores)
    assert int((scores > scores[token]).sum()) < top_k


@given(finite_scores, st.floats(0, 0.999), st.integers(0, 50), st.integers(0, 2**32))
def test_top_p_draws_from_the_fewest_that_reach_p(scores: Scores, top_p: float, top_k: int, seed: int) -> None:
    token = SamplerChain(Sampling(temperature=5, seed=seed, top_p=top_p, top_k=top_k), history=()).sample(scores)
    best = np.sort(scores)[::-1][: top_k or None]
    likelier = softmax(best)[best > scores[token]].sum()
    assert likelier < top_p + 1e-5 or token == scores.argmax()


@given(finite_scores, st.floats(0.001, 1), st.integers(0, 2**32))
def test_min_p_draws_only_what_is_likely_enough_beside_the_best(scores: Scores, min_p: float, seed: int) -> None:
    token = SamplerChain(Sampling(temperature=5, seed=seed, min_p=min_p), history=()).sample(scores)
    assert scores[token] - scores.max() >= math.log(min_p) - 1e-5


def test_filters_see_scores_before_the_temperature() -> None:
    scores = row(0, -1, -2, -3)  # 0.64, 0.24, 0.09, 0.03 at temperature 1
    drawn = shares(Sampling(temperature=100, seed=1, top_p=0.8), scores)
    assert drawn == pytest.approx([0.5, 0.5, 0, 0], abs=0.03)


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    sampling = Sampling(temperature=0, seed=1, repetition_penalty=2.0, repeat_last_n=64)
    assert SamplerChain(sampling, history=(0, 0)).sample(row(4, 2.1)) == 1
    assert SamplerChain(sampling, history=(0, 0)).sample(row(4, 1.9)) == 0
    assert SamplerChain(sampling, history=(0,)).sample(row(-1, -1.9)) == 1
    assert SamplerChain(sampling, history=(0,)).sample(row(-1, -2.1)) == 0


def test_the_frequency_penalty_counts_and_the_presence_penalty_does_not() -> None:
    often = Sampling(temperature=0, seed=1, frequency_penalty=1.0, repeat_last_n=64)
    ever = Sampling(temperature=0, seed=1, presence_penalty=1.0, repeat_last_n=64)
    scores = row(3.0, 1.5)
    assert SamplerChain(often, history=(0,)).sample(scores) == 0
    assert SamplerChain(often, history=(0, 0)).sample(scores) == 1
    assert SamplerChain(ever, history=(0, 0)).sample(scores) == 0


def test_tokens_it_chose_itself_are_penalised_too_until_they_leave_the_window() -> None:
    sampling = Sampling(temperature=0, seed=1, presence_penalty=10.0, repeat_last_n=2)
    chain = SamplerChain(sampling, history=())
    assert [chain.sample(row(3, 2, 1)) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(("repeat_last_n", "token"), [(0, 0), (2, 0), (3, 1), (-1, 1)])
def test_the_window_reaches_back_into_the_prompt(repeat_last_n: int, token: int) -> None:
    sampling = Sampling(temperature=0, seed=1, presence_penalty=10.0, repeat_last_n=repeat_last_n)
    assert SamplerChain(sampling, history=(0, 2, 2)).sample(row(3, 2, 1)) == token


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    scores = np.zeros(5000, np.float32)

    def draws(seed: int) -> list[int]:
        chain = SamplerChain(Sampling(temperature=1, seed=seed), history=())
        return [chain.sample(scores) for _ in range(5)]

    assert draws(2**63 + 1) == draws(2**63 + 1)
    assert draws(1) != draws(2)


def test_the_row_is_left_as_it_was() -> None:
    scores = row(3, 2, 1)
    sampling = Sampling(temperature=1, seed=1, repetition_penalty=1.5, repeat_last_n=9, top_p=0.5)
    SamplerChain(sampling, history=(0, 1)).sample(scores)
    assert scores.tolist() == [3, 2, 1]


@pytest.mark.filterwarnings("error")
@given(
    scores=st.lists(st.floats(width=32), min_size=1, max_size=9).map(lambda values: np.array(values, np.float32)),
    temperature=st.sampled_from([-1.0, 0.0, 5e-324, 1e-40, 1e-7, 0.7, 1e30, 1e308]),
    top_k=st.sampled_from([0, 1, 3, 1 << 30]),
    top_p=st.sampled_from([0.0, 1e-300, 0.5, 1.0]),
    min_p=st.sampled_from([0.0, 1e-300, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1e-38, 0.5, 1.0, 1e30]),
    frequency_penalty=st.sampled_from([-1e30, 0.0, 2.0, 1e30]),
)
def test_no_request_and_no_broken_weights_can_make_it_fail(  # noqa: PLR0917 - hypothesis passes by name
    scores: Scores,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    frequency_penalty: float,
) -> None:
    sampling = Sampling(
        temperature=temperature,
        seed=1,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        repeat_last_n=4,
    )
    chain = SamplerChain(sampling, history=(0,))
    assert all(0 <= chain.sample(scores) < len(scores) for _ in range(3))
