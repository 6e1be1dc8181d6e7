import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.step_costs import StepCosts


def costs(*decoded: tuple[int, float], target_step_s: float = 0.1) -> StepCosts:
    """One that has seen steps of so many tokens of replies."""
    seen = StepCosts(target_step_s=target_step_s)
    for tokens, duration_s in decoded:
        seen.observe(decoded=tokens, prefilled=0, duration_s=duration_s)
    return seen


def test_before_any_step_nothing_is_known() -> None:
    assert costs().decode_s(1) is None
    assert costs().prefill_token_s is None


def test_no_tokens_take_no_time() -> None:
    assert costs().decode_s(0) == 0
    assert costs((1, 0.01)).decode_s(0) == 0


@pytest.mark.parametrize(
    ("tokens", "duration_ms"),
    [
        (2, 20),  # as measured
        (4, 24),
        (3, 22),  # on the line between the two
        (1, 10),  # between nothing and the smallest
        (6, 28),  # on the line beyond the largest two
    ],
)
def test_a_step_of_a_size_not_measured_lies_on_the_line_through_its_neighbours(tokens: int, duration_ms: float) -> None:
    assert costs((2, 0.020), (4, 0.024)).decode_s(tokens) == pytest.approx(duration_ms / 1000)


def test_of_one_size_alone_nothing_but_proportion_follows() -> None:
    assert costs((2, 0.020)).decode_s(6) == pytest.approx(0.060)


def test_very_large_steps_are_not_told_apart() -> None:
    assert costs((100, 0.5)).decode_s(200) == 0.5
    assert costs((100, 0.5)).decode_s(64) == 0.5


def test_a_size_measured_again_is_averaged() -> None:
    assert 0.020 < (costs((2, 0.020), (2, 0.040)).decode_s(2) or 0) < 0.040


def test_a_small_step_that_had_a_hiccup_does_not_make_larger_ones_free() -> None:
    assert costs((1, 0.040), (2, 0.020)).decode_s(3) == 0.020


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0.001, 10)), min_size=1), st.integers(1, 100))
def test_whatever_was_measured_every_step_takes_some_time(steps: list[tuple[int, float]], tokens: int) -> None:
    duration_s = costs(*steps).decode_s(tokens)
    assert duration_s is not None
    assert duration_s > 0


def test_the_price_of_a_prompt_token_is_what_a_step_took_beyond_its_replies() -> None:
    seen = costs((2, 0.020))
    seen.observe(decoded=2, prefilled=40, duration_s=0.100)
    assert seen.prefill_token_s == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("decoded", "prefilled", "duration_s"),
    [
        (0, 15, 0.1),  # too few to tell
        (2, 40, 0.015),  # faster than without them: a hiccup when the others were measured
        (0, 0, 0.1),  # everything was lost
    ],
)
def test_steps_that_say_nothing_about_prompts_teach_nothing(decoded: int, prefilled: int, duration_s: float) -> None:
    seen = costs((2, 0.020))
    seen.observe(decoded=decoded, prefilled=prefilled, duration_s=duration_s)
    assert seen.prefill_token_s is None
    assert [seen.decode_s(tokens) for tokens in (0, 2)] == [0, 0.020]


@pytest.mark.parametrize(
    ("decoding", "room", "budget"),
    [
        (0, 500, 500),  # nobody waits
        (2, 500, 41),  # what is left of 100 ms beside 20, at 2 ms a token, and one more
        (2, 30, 30),
        (8, 500, 17),  # nothing is left, but prompts arrive all the same
        (8, 10, 10),
    ],
)
def test_beside_replies_prompts_get_the_rest_of_the_target_time(decoding: int, room: int, budget: int) -> None:
    seen = costs((2, 0.020), (8, 0.120), target_step_s=0.1000001)
    seen.observe(decoded=0, prefilled=100, duration_s=0.2)
    assert seen.prefill_budget(decoding=decoding, room=room) == budget


@pytest.mark.parametrize(
    ("spare_s", "budget"), [(0.0555, 56), (0.0565, 65), (0.0635, 65), (0.0645, 65), (0.0655, 66), (0.3, 301)]
)
def test_what_is_nearly_a_tile_of_attention_becomes_one(spare_s: float, budget: int) -> None:
    seen = costs((1, 0.020), target_step_s=0.020 + spare_s)
    seen.observe(decoded=0, prefilled=100, duration_s=0.1)
    assert seen.prefill_budget(decoding=1, room=500) == budget


@pytest.mark.parametrize(("decoding", "budget"), [(0, 500), (1, 16)])
def test_a_speed_not_known_is_found_out_with_little(decoding: int, budget: int) -> None:
    assert costs().prefill_budget(decoding=decoding, room=500) == budget


def test_moving_is_tried_until_both_prices_are_known_and_then_done_if_it_is_cheaper() -> None:
    seen = costs()
    assert seen.is_worth_moving(1000, instead_of=1)
    seen.observe(decoded=0, prefilled=100, duration_s=0.1)  # 1 ms a token
    assert seen.is_worth_moving(1000, instead_of=1)
    seen.observe_move(tokens=100, duration_s=0.01)  # 0.1 ms a token
    assert seen.is_worth_moving(1000, instead_of=101)
    assert not seen.is_worth_moving(1000, instead_of=100)


def test_a_step_that_moved_nothing_teaches_nothing_about_moving() -> None:
    seen = costs()
    seen.observe_move(tokens=0, duration_s=0.0)
    assert seen.move_token_s is None


def test_gathering_is_worth_a_few_steps_once_both_prices_are_known() -> None:
    seen = costs()
    assert seen.is_worth_gathering(10_000, sequences=2)
    seen.observe(decoded=2, prefilled=0, duration_s=0.02)
    assert seen.is_worth_gathering(10_000, sequences=2)
    seen.observe_move(tokens=100, duration_s=0.01)
    assert seen.is_worth_gathering(799, sequences=2)
    assert not seen.is_worth_gathering(800, sequences=2)
