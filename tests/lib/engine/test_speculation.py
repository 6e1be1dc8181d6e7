from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.speculation import MAX_DRAFT, DraftPolicy, PromptLookup
from neuron_lib.engine.step_costs import StepCosts


@pytest.mark.parametrize(
    ("tokens", "limit", "draft"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], 8, [4, 5, 1, 2, 3]),
        ([1, 2, 3, 4, 5, 1, 2, 3], 2, [4, 5]),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, [5]),  # what came last
        ([1, 1, 1, 1], 8, [1]),  # and nothing beyond the end
        ([1, 2, 3, 4, 5, 6, 2, 3], 8, []),  # two of three
        ([1, 2, 3], 8, []),  # its own end is no earlier place
        ([1, 2], 8, []),
        ([], 8, []),
    ],
)
def test_the_draft_is_what_followed_the_last_time(tokens: list[int], limit: int, draft: list[int]) -> None:
    assert PromptLookup().draft(tokens, limit) == draft


def found_by_looking(tokens: list[int], limit: int) -> list[int]:
    """The same without an index: from the end to the beginning."""
    for end in range(len(tokens) - 1, 2, -1):
        if tokens[end - 3 : end] == tokens[-3:]:
            return tokens[end : end + limit]
    return []


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 10), st.lists(st.integers(1, 8)))
def test_a_text_that_grows_is_searched_as_if_it_were_new_each_time(
    tokens: list[int], limit: int, steps: list[int]
) -> None:
    lookup, length = PromptLookup(), 0
    for step in steps:
        length = min(length + step, len(tokens))
        text = tokens[:length]
        assert lookup.draft(text, limit) == found_by_looking(text, limit)


def measured(step_s: Callable[[int], float]) -> StepCosts:
    """A machine on which a step of n tokens takes `step_s(n)` seconds."""
    costs = StepCosts(target_step_s=0.1)
    for tokens in range(1, 33):
        costs.observe(decoded=tokens, prefilled=0, duration_s=step_s(tokens))
    return costs


FLAT = measured(lambda _tokens: 0.01)
LINEAR = measured(lambda tokens: 0.01 * tokens)
BETWEEN = measured(lambda tokens: 0.01 + 0.003 * (tokens - 1))


def policy(*rights: int, drafted: int = 4) -> DraftPolicy:
    """One that has seen so many of its guesses confirmed, step by step."""
    experienced = DraftPolicy()
    for right in rights:
        experienced.observe(drafted=drafted, right=right)
    return experienced


NAIVE, GOOD, BAD = (), (4,) * 40, (0,) * 40


@pytest.mark.parametrize(
    ("costs", "rights", "length"),
    [
        (FLAT, NAIVE, MAX_DRAFT),  # guesses are free
        (FLAT, GOOD, MAX_DRAFT),
        (FLAT, BAD, 0),  # but not worth a step that is one in twenty better
        (LINEAR, NAIVE, 0),
        (LINEAR, BAD, 0),
        (BETWEEN, NAIVE, 1),  # 0.5 more for 0.3 more, then 0.25 more for 0.3
        (BETWEEN, GOOD, MAX_DRAFT),
        (BETWEEN, BAD, 0),
    ],
)
def test_the_length_is_where_tokens_per_second_are_highest(
    costs: StepCosts, rights: tuple[int, ...], length: int
) -> None:
    assert policy(*rights).length(costs, decoding=1) == length


def test_a_sequence_among_many_guesses_as_if_only_its_own_tokens_were_at_stake() -> None:
    # Eight tokens of others are there anyway; its guesses are 1 ms each, in a step that takes 17.
    gentle = measured(lambda tokens: 0.009 + 0.001 * tokens)
    assert policy(*GOOD).length(gentle, decoding=8) == MAX_DRAFT
    assert policy().length(LINEAR, decoding=8) == 0


def test_on_a_machine_not_measured_nobody_guesses() -> None:
    assert DraftPolicy().length(StepCosts(target_step_s=0.1), decoding=1) == 0


def test_who_has_guessed_badly_tries_one_token_again_after_a_while() -> None:
    experienced = policy(*BAD)
    lengths = [experienced.length(BETWEEN, decoding=1) for _ in range(200)]
    assert [at for at, length in enumerate(lengths) if length] == [64, 129, 194]
    assert set(lengths) == {0, 1}


def test_after_a_good_time_the_wait_begins_anew() -> None:
    experienced = policy(*BAD)
    assert not any(experienced.length(BETWEEN, decoding=1) for _ in range(60))
    experienced.accuracy = 1.0
    assert experienced.length(BETWEEN, decoding=1) == MAX_DRAFT
    experienced.accuracy = 0.0
    assert not any(experienced.length(BETWEEN, decoding=1) for _ in range(64))


def test_and_guesses_more_when_that_turned_out_right_a_few_times() -> None:
    experienced = policy(*BAD)
    for _ in range(40):
        experienced.observe(drafted=1, right=1)
    assert experienced.length(BETWEEN, decoding=1) == MAX_DRAFT


@pytest.mark.parametrize(
    ("drafted", "right", "of"),
    [(4, 4, 4), (4, 0, 1), (4, 2, 3), (1, 0, 1), (1, 1, 1)],
)
def test_guesses_behind_the_first_wrong_one_say_nothing(drafted: int, right: int, of: int) -> None:
    experienced, plain = policy(right, drafted=drafted), DraftPolicy()
    plain.observe(drafted=of, right=right)
    assert experienced.accuracy == plain.accuracy
    assert (experienced.accuracy > 0.5) == (right / of > 0.5)


def test_a_step_without_a_guess_teaches_nothing() -> None:
    assert policy(0, drafted=0).accuracy == DraftPolicy().accuracy
