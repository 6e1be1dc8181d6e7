import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron_lib.sampling.lottery import _pick
from neuron_lib.sampling.penalties import penalties
from neuron_lib.sampling.sampler import Constraint, Draw, SamplerChain
from neuron_lib.types import Likely, Sampling, TokenLogprob

Scores = npt.NDArray[np.float32]
DRAWS = 4000
GREEDY = Sampling(temperature=0, seed=1)

finite_scores = st.lists(st.floats(-30, 30, width=32, allow_subnormal=False), min_size=1, max_size=700).map(
    lambda values: np.array(values, np.float32)
)
anything = st.floats(allow_nan=False, width=32)


def row(*values: float) -> Scores:
    return np.array(values, np.float32)


class Letters:
    """A vocabulary of the letters from `a` on; `eog` says which of them end a reply."""

    def __init__(self, eog: str = "") -> None:
        self.eog = frozenset(map(letter, eog))

    def text(self, token: int) -> bytes:
        return chr(ord("a") + token).encode()

    def tokens_containing(self, text: str) -> frozenset[int]:
        return frozenset({letter(text)})


def letter(text: str) -> int:
    return ord(text) - ord("a")


class Only:
    """Allows the same letters at every step, and any number of them."""

    def __init__(self, letters: str) -> None:
        self.allowed = set(map(letter, letters))
        self.accepted: list[int] = []
        self.masked = 0
        self.is_complete = False

    def allows(self, token: int) -> bool:
        return token in self.allowed

    def mask(self, row: Scores) -> None:
        self.masked += 1
        row[[token for token in range(len(row)) if token not in self.allowed]] = -math.inf

    def accept(self, token: int) -> None:
        assert token in self.allowed
        self.accepted.append(token)


def sampler(
    sampling: Sampling,
    *,
    history: Sequence[int] = (),
    eog: str = "",
    top_logprobs: int | None = None,
    constraint: Constraint | None = None,
) -> SamplerChain:
    return SamplerChain(sampling, history=history, vocab=Letters(eog), top_logprobs=top_logprobs, constraint=constraint)


def word(chain: SamplerChain, scores: Scores, length: int) -> str:
    """What the chain makes of the same row again and again."""
    return "".join(chr(ord("a") + chain.sample(scores).token) for _ in range(length))


def shares(chain: SamplerChain, scores: Scores) -> npt.NDArray[np.float64]:
    """How often each token is drawn, of 1."""
    counts = Counter(chain.sample(scores).token for _ in range(DRAWS))
    return np.array([counts[token] for token in range(len(scores))]) / DRAWS


def softmax(scores: Scores, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    weights = np.exp(scores.astype(np.float64) / temperature)
    return np.asarray(weights / weights.sum())


@given(finite_scores)
def test_without_temperature_the_highest_score_wins(scores: Scores) -> None:
    assert sampler(GREEDY).sample(scores).token == int(scores.argmax())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature: float) -> None:
    scores = row(*np.linspace(-2, 2, 9))
    drawn = shares(sampler(Sampling(temperature=temperature, seed=3)), scores)
    assert drawn == pytest.approx(softmax(scores, temperature), abs=0.03)


def test_a_vocabulary_of_many_blocks_is_drawn_from_evenly() -> None:
    tokens = 1000
    chain = sampler(Sampling(temperature=1, seed=5))
    drawn = np.array([chain.sample(np.zeros(tokens, np.float32)).token for _ in range(DRAWS)])
    assert np.histogram(drawn, bins=10, range=(0, tokens))[0] / DRAWS == pytest.approx(np.full(10, 0.1), abs=0.03)
    assert len(set(drawn)) > tokens / 2


@example(row(0, 0, 0, 0, 1, 1, 0, -1e-18, 0, 24), 9, 1516780)
@given(finite_scores, st.integers(1, 20), st.integers(0, 2**64))
def test_top_k_draws_from_the_k_highest(scores: Scores, top_k: int, seed: int) -> None:
    token = sampler(Sampling(temperature=5, seed=seed, top_k=top_k)).sample(scores).token
    # What the highest is taken from first: then -1e-18 and 0 below 24 are the same in 32 bits.
    weights = scores - scores.max()
    assert int((weights > weights[token]).sum()) < top_k


@given(finite_scores, st.floats(0, 0.999), st.integers(0, 50), st.integers(0, 2**32))
def test_top_p_draws_from_the_fewest_that_reach_p(scores: Scores, top_p: float, top_k: int, seed: int) -> None:
    token = sampler(Sampling(temperature=5, seed=seed, top_p=top_p, top_k=top_k)).sample(scores).token
    best = np.sort(scores)[::-1][: top_k or None]
    likelier = softmax(best)[best > scores[token]].sum()
    assert likelier < top_p + 1e-5 or token == scores.argmax()


@given(finite_scores, st.floats(0.001, 1), st.integers(0, 2**32))
def test_min_p_draws_only_what_is_likely_enough_beside_the_best(scores: Scores, min_p: float, seed: int) -> None:
    token = sampler(Sampling(temperature=5, seed=seed, min_p=min_p)).sample(scores).token
    assert scores[token] - scores.max() >= math.log(min_p) - 1e-5


def test_filters_see_scores_before_the_temperature() -> None:
    scores = row(0, -1, -2, -3)  # 0.64, 0.24, 0.09, 0.03 at temperature 1
    drawn = shares(sampler(Sampling(temperature=100, seed=1, top_p=0.8)), scores)
    assert drawn == pytest.approx([0.5, 0.5, 0, 0], abs=0.03)


def test_the_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_not() -> None:
    sampling = Sampling(temperature=0, seed=1, repetition_penalty=2.0, repeat_last_n=64)
    assert sampler(sampling, history=(0, 0)).sample(row(4, 2.1)).token == 1
    assert sampler(sampling, history=(0, 0)).sample(row(4, 1.9)).token == 0
    assert sampler(sampling, history=(0,)).sample(row(-1, -1.9)).token == 1
    assert sampler(sampling, history=(0,)).sample(row(-1, -2.1)).token == 0


def test_the_frequency_penalty_counts_and_the_presence_penalty_does_not() -> None:
    often = Sampling(temperature=0, seed=1, frequency_penalty=1.0, repeat_last_n=64)
    ever = Sampling(temperature=0, seed=1, presence_penalty=1.0, repeat_last_n=64)
    scores = row(3.0, 1.5)
    assert sampler(often, history=(0,)).sample(scores).token == 0
    assert sampler(often, history=(0, 0)).sample(scores).token == 1
    assert sampler(ever, history=(0, 0)).sample(scores).token == 0


def test_tokens_it_chose_itself_are_penalised_too_until_they_leave_the_window() -> None:
    sampling = Sampling(temperature=0, seed=1, presence_penalty=10.0, repeat_last_n=2)
    chain = sampler(sampling)
    assert [chain.sample(row(3, 2, 1)).token for _ in range(6)] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(("repeat_last_n", "token"), [(0, 0), (2, 0), (3, 1), (-1, 1)])
def test_the_window_reaches_back_into_the_prompt(repeat_last_n: int, token: int) -> None:
    sampling = Sampling(temperature=0, seed=1, presence_penalty=10.0, repeat_last_n=repeat_last_n)
    assert sampler(sampling, history=(0, 2, 2)).sample(row(3, 2, 1)).token == token


@given(
    steps=st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, math.nan]), min_size=5, max_size=5), min_size=1, max_size=9
    ),
    changes=st.sampled_from(
        [
            {"repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": 0.5},
            {"repetition_penalty": 0.5},
            {"frequency_penalty": -0.5},
            {"presence_penalty": -0.5},
            {"dry_multiplier": 2.5, "dry_allowed_length": 0, "dry_sequence_breakers": ("b",)},
            {"logit_bias": {2: 1.5}},
            {"min_tokens": 3},
            {"min_tokens": 3, "repetition_penalty": 1.5},
        ]
    ),
)
def test_greedy_is_the_highest_adjusted_score_although_adjusting_is_avoided(
    steps: list[list[float]], changes: dict[str, Any]
) -> None:
    sampling = Sampling(temperature=0, seed=1, **{"repetition_penalty": 1, "repeat_last_n": 4} | changes)
    chain = sampler(sampling, history=(0, 2, 0, 2), eog="e")
    rules = penalties(sampling, history=(0, 2, 0, 2), vocab=Letters("e"))
    for scores in steps:
        adjusted = row(*scores)
        for rule in rules:
            rule.apply(adjusted)
        token = chain.sample(row(*scores)).token
        assert token == adjusted.argmax()
        for rule in rules:
            rule.remember(token)


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    scores = np.zeros(5000, np.float32)

    def draws(seed: int) -> list[int]:
        chain = sampler(Sampling(temperature=1, seed=seed))
        return [chain.sample(scores).token for _ in range(5)]

    assert draws(2**63 + 1) == draws(2**63 + 1)
    assert draws(1) != draws(2)


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(temperature=1, seed=1, repetition_penalty=1.5, repeat_last_n=9, top_p=0.5, ignore_eos=True)],
)
def test_the_row_is_left_as_it_was(sampling: Sampling) -> None:
    scores = row(3, 2, 1)
    sampler(sampling, history=(0, 1), eog="a", top_logprobs=2, constraint=Only("c")).sample(scores)
    assert scores.tolist() == [3, 2, 1]


def test_at_any_temperature_only_what_is_possible_is_drawn() -> None:
    sampling = Sampling(temperature=1e300, seed=1, ignore_eos=True)
    assert shares(sampler(sampling, eog="d"), row(1, 2, 3, 4)) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=0.03)


@pytest.mark.parametrize("seed", range(9))
def test_rounding_never_leads_to_a_token_without_weight(seed: int) -> None:
    weights = np.zeros(1024, np.float32)
    weights[256:500] = np.random.default_rng(seed).random(244, np.float32)
    assert _pick(weights, 0.0) == 256
    assert _pick(weights, 1.0) == 499


def test_a_logit_bias_is_added_before_the_penalties() -> None:
    sampling = Sampling(temperature=0, seed=1, repetition_penalty=2.0, repeat_last_n=9, logit_bias={0: 4.0})
    assert sampler(sampling, history=(0,)).sample(row(-1, 1.6)).token == 1  # 3 / 2, and not -2 + 4
    assert sampler(sampling, history=(0,)).sample(row(-1, 1.4)).token == 0


def test_a_logit_bias_for_tokens_that_do_not_exist_changes_nothing() -> None:
    sampling = Sampling(temperature=0, seed=1, logit_bias={-1: 100.0, 2: 100.0, 2**63: 100.0, 1: 5.0})
    assert sampler(sampling).sample(row(3, 2)).token == 1


def test_no_end_is_chosen_before_the_least_number_of_tokens() -> None:
    scores = row(3, 2, 1, 0)
    assert word(sampler(Sampling(temperature=0, seed=1, min_tokens=3), eog="ab"), scores, 5) == "cccaa"
    assert word(sampler(Sampling(temperature=0, seed=1, ignore_eos=True), eog="ab"), scores, 5) == "ccccc"


def test_a_token_that_stops_waits_for_the_least_number_of_tokens_and_nothing_else() -> None:
    scores, stops = row(3, 2, 1, 0), (0, 2**31 - 1)  # one of them does not exist
    sampling = Sampling(temperature=0, seed=1, min_tokens=2, stop_token_ids=stops)
    assert word(sampler(sampling, eog="b"), scores, 4) == "ccaa"
    sampling = Sampling(temperature=0, seed=1, ignore_eos=True, stop_token_ids=stops)
    assert word(sampler(sampling, eog="b"), scores, 2) == "aa"


@pytest.mark.parametrize(("probability", "tops"), [(0.0, 0.6), (0.25, 0.45), (1.0, 0.0)])
def test_xtc_takes_the_likeliest_away_as_often_as_it_is_told(probability: float, tops: float) -> None:
    scores = np.log(row(0.6, 0.3, 0.1))
    sampling = Sampling(temperature=1, seed=1, xtc_probability=probability, xtc_threshold=0.25)
    assert shares(sampler(sampling), scores)[0] == pytest.approx(tops, abs=0.03)


@pytest.mark.parametrize("threshold", [0.0, 1e-60])
def test_xtc_never_leaves_only_what_is_forbidden(threshold: float) -> None:
    chain = sampler(Sampling(temperature=1, seed=1, xtc_probability=1, xtc_threshold=threshold))
    assert chain.sample(row(1.0, -math.inf, 0.5, -math.inf)).token == 2


def test_xtc_leaves_a_single_likely_token_alone() -> None:
    sampling = Sampling(temperature=1, seed=1, xtc_probability=1.0, xtc_threshold=0.5)
    assert shares(sampler(sampling), np.log(row(0.6, 0.3, 0.1)))[0] == pytest.approx(0.6, abs=0.03)


def test_a_low_temperature_still_prefers_what_is_left_when_the_likeliest_are_gone() -> None:
    sampling = Sampling(temperature=0.005, seed=1, xtc_probability=1.0, xtc_threshold=0.2)
    assert word(sampler(sampling), np.log(row(0.6, 0.3, 0.06, 0.04)), 9) == "bbbbbbbbb"


# ------------------------------------------------------------------------------------------------------- constraints


def test_a_constraint_is_asked_first_and_masks_only_what_it_refuses() -> None:
    constraint = Only("ac")
    chain = sampler(GREEDY, constraint=constraint)
    assert [chain.sample(row(3, 2, 1)).token, chain.sample(row(1, 3, 2)).token] == [letter("a"), letter("c")]
    assert constraint.accepted == [letter("a"), letter("c")]
    assert constraint.masked == 1


def test_what_a_constraint_leaves_is_drawn_as_if_the_rest_did_not_exist() -> None:
    scores = row(2, 1, 0, -1)
    drawn = shares(sampler(Sampling(temperature=1, seed=1), constraint=Only("bd")), scores)
    assert drawn == pytest.approx([0, *softmax(row(1, -1))[:1], 0, *softmax(row(1, -1))[1:]], abs=0.03)


@given(finite_scores, st.integers(0, 2**32), st.sampled_from([0.001, 0.7, 1e300]))
def test_no_forbidden_token_is_ever_drawn(scores: Scores, seed: int, temperature: float) -> None:
    constraint = Only("abc")
    chain = sampler(Sampling(temperature=temperature, seed=seed, top_k=40, top_p=0.9), constraint=constraint)
    constraint.allowed &= set(range(len(scores)))
    assert all(chain.sample(scores).token in constraint.allowed for _ in range(3))


def test_penalties_hold_under_a_constraint_too() -> None:
    sampling = Sampling(temperature=0, seed=1, presence_penalty=10.0, repeat_last_n=1)
    assert word(sampler(sampling, constraint=Only("bc")), row(30, 2, 1), 4) == "bcbc"


def test_where_a_constraint_allows_nothing_but_the_end_it_ends_before_its_time() -> None:
    sampling = Sampling(temperature=0.7, seed=1, ignore_eos=True)
    assert word(sampler(sampling, eog="dc", constraint=Only("c")), row(3, 2, 1, 0), 1) == "c"


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_chain_is_complete_when_its_constraint_is(*, is_complete: bool) -> None:
    constraint = Only("a")
    constraint.is_complete = is_complete
    assert sampler(GREEDY, constraint=constraint).is_complete is is_complete


def test_a_chain_without_a_constraint_is_never_complete() -> None:
    assert not sampler(GREEDY).is_complete


# -------------------------------------------------------------------------------------------------- log-probabilities


def test_log_probabilities_are_those_of_the_model_before_anything_is_changed() -> None:
    sampling = Sampling(
        temperature=0.1, seed=1, top_k=1, presence_penalty=10, repeat_last_n=9, logit_bias={1: 50.0}, min_tokens=9
    )
    scores = row(1, 2, 3)
    choice = sampler(sampling, history=(2,), eog="c", top_logprobs=2, constraint=Only("ab")).sample(scores)
    expected = np.log(softmax(scores)).tolist()
    assert choice.token == letter("b")
    assert choice.logprob is not None
    assert choice.logprob.piece == b"b"
    assert choice.logprob.logprob == pytest.approx(expected[1])
    assert [top.piece for top in choice.logprob.top] == [b"c", b"b"]
    assert [top.logprob for top in choice.logprob.top] == pytest.approx([expected[2], expected[1]])


def test_log_probabilities_are_there_only_for_those_who_want_them() -> None:
    assert sampler(GREEDY).sample(row(0)) == Draw(0)
    assert sampler(GREEDY, top_logprobs=0).sample(row(0)) == Draw(0, TokenLogprob(b"a", 0.0))


def test_equally_likely_tokens_stand_in_the_order_of_their_ids() -> None:
    choice = sampler(GREEDY, top_logprobs=4).sample(row(1, 2, 1, 2, 1, 1))
    assert choice.logprob is not None
    assert [top.piece for top in choice.logprob.top] == [b"b", b"d", b"a", b"c"]


@pytest.mark.parametrize("top", [1, 20])
def test_the_alternatives_are_the_likeliest_of_a_large_vocabulary(top: int) -> None:
    scores = np.random.default_rng(top).normal(0, 3, 3000).astype(np.float32)
    choice = sampler(GREEDY, top_logprobs=top).sample(scores)
    assert choice.logprob is not None
    assert [letter(likely.piece.decode()) for likely in choice.logprob.top] == np.argsort(-scores)[:top].tolist()


def test_what_cannot_come_has_a_log_probability_that_json_can_say() -> None:
    choice = sampler(GREEDY, top_logprobs=9).sample(row(0, -math.inf))
    assert choice == Draw(0, TokenLogprob(b"a", 0.0, (Likely(b"a", 0.0), Likely(b"b", -9999.0))))


@given(st.lists(st.floats(width=32), min_size=1, max_size=5))
def test_log_probabilities_of_broken_weights_are_numbers_all_the_same(values: list[float]) -> None:
    choice = sampler(GREEDY, top_logprobs=20).sample(np.array(values, np.float32))
    assert choice.logprob is not None
    assert len(choice.logprob.top) == len(values)
    logprobs = [choice.logprob.logprob, *(likely.logprob for likely in choice.logprob.top)]
    assert all(-9999 <= logprob <= 0 for logprob in logprobs)


@pytest.mark.filterwarnings("error")
@given(
    scores=st.lists(st.floats(width=32), min_size=1, max_size=9).map(lambda values: np.array(values, np.float32)),
    temperature=st.sampled_from([-1.0, 0.0, 5e-324, 1e-40, 1e-7, 0.7, 1e30, 1e308]),
    top_k=st.sampled_from([0, 1, 3, 1 << 30]),
    top_p=st.sampled_from([0.0, 1e-300, 0.5, 1.0]),
    min_p=st.sampled_from([0.0, 1e-300, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1e-38, 0.5, 1.0, 1e30]),
    frequency_penalty=st.sampled_from([-1e30, 0.0, 2.0, 1e30]),
    extras=st.fixed_dictionaries(
        {},
        optional={
            "typical_p": st.sampled_from([1e-300, 0.5]),
            "top_n_sigma": st.sampled_from([1e-300, 1.0, 1e300]),
            "xtc_probability": st.just(1.0),
            "xtc_threshold": st.sampled_from([0.0, 1e-300, 0.1]),
            "dry_multiplier": st.sampled_from([1e-300, 1.0, 1e300]),
            "dry_base": st.sampled_from([1.0, 1e300]),
            "dry_allowed_length": st.sampled_from([0, 1]),
            "logit_bias": st.sampled_from([{0: 1e300}, {0: -1e300}, {0: math.nan}]),
            "ignore_eos": st.just(value=True),
        },
    ),
)
def test_no_request_and_no_broken_weights_can_make_it_fail(  # noqa: PLR0917 - hypothesis passes by name
    scores: Scores,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    frequency_penalty: float,
    extras: dict[str, Any],
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
        **extras,
    )
    chain = sampler(sampling, history=(0, 0), eog="a", top_logprobs=2)
    assert all(0 <= chain.sample(scores).token < len(scores) for _ in range(3))
