from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.tally import Tally

BOUNDS = (0.5, 1.0, 8.0)


def test_a_value_counts_at_the_first_bound_that_is_not_smaller() -> None:
    tally = Tally(BOUNDS)
    for value in (0.0, 0.5, 0.6, 1.0, 8.0, 8.1):
        tally.add(value)
    assert tally.show().counts == (2, 2, 1, 1)


def test_a_value_may_count_several_times() -> None:
    tally = Tally(BOUNDS)
    tally.add(2.0, times=3)
    shown = tally.show()
    assert (shown.counts, shown.sum) == ((0, 0, 3, 0), 6.0)
    assert repr(tally) == "<Tally 3 values, sum 6>"


def test_what_was_shown_does_not_change() -> None:
    tally = Tally(BOUNDS)
    before = tally.show()
    tally.add(1.0)
    assert before.counts == (0, 0, 0, 0)


@given(st.lists(st.floats(0, 100)))
def test_the_counts_up_to_a_bound_are_those_of_the_values_up_to_the_bound(values: list[float]) -> None:
    tally = Tally(BOUNDS)
    for value in values:
        tally.add(value)
    up_to = [*accumulate(tally.show().counts)]
    assert up_to == [*(sum(value <= bound for value in values) for bound in BOUNDS), len(values)]
