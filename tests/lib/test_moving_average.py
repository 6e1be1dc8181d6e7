import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.moving_average import Rate


def test_without_a_sample_a_rate_is_zero() -> None:
    assert Rate().per_s == 0.0


def test_the_first_sample_is_taken_as_it_is() -> None:
    rate = Rate()
    rate.add(30, 2.0)
    assert rate.per_s == 15.0
    assert repr(rate) == "<Rate 15.0/s>"


def test_a_later_sample_counts_for_three_tenths() -> None:
    rate = Rate()
    rate.add(10, 1.0)
    rate.add(20, 1.0)
    assert rate.per_s == pytest.approx(13.0)


@pytest.mark.parametrize(("count", "seconds"), [(0, 1.0), (-1, 1.0), (5, 0.0), (5, -0.1)])
def test_a_sample_without_items_or_without_time_is_ignored(count: int, seconds: float) -> None:
    rate = Rate()
    rate.add(10, 1.0)
    rate.add(count, seconds)
    assert rate.per_s == 10.0


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0.001, 1000)), min_size=1))
def test_a_rate_stays_between_its_slowest_and_its_fastest_sample(samples: list[tuple[int, float]]) -> None:
    rate = Rate()
    for count, seconds in samples:
        rate.add(count, seconds)
    rates = [count / seconds for count, seconds in samples]
    assert min(rates) * 0.999 <= rate.per_s <= max(rates) * 1.001
