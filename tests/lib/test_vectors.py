import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import InvalidRequest
from neuron_lib.vectors import check_dimensions, relevance, shortened

NUMBERS = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64)


@given(NUMBERS, st.integers(1, 64))
def test_a_shortened_vector_points_the_same_way_in_fewer_dimensions(vector: list[float], dimensions: int) -> None:
    short = shortened(vector, dimensions)
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    assert len(short) == len(kept)
    assert short == pytest.approx([value / length if length else 0.0 for value in kept])
    assert math.hypot(*short) == pytest.approx(1 if length else 0)


def test_a_vector_that_is_wanted_whole_is_left_as_it_is() -> None:
    assert shortened([0.25, 3.0], None) == (0.25, 3.0)


@pytest.mark.parametrize("wanted", [None, 1, 8])
def test_a_vector_has_its_first_numbers(wanted: int | None) -> None:
    check_dimensions(wanted, width=8)


@pytest.mark.parametrize("wanted", [-1, 0, 9])
def test_a_vector_has_no_more_numbers_than_the_model_makes(wanted: int) -> None:
    with pytest.raises(InvalidRequest, match=f"dimensions: {wanted} are wanted, .* have 8") as raised:
        check_dimensions(wanted, width=8)
    assert raised.value.param == "dimensions"
    assert str(wanted) in raised.value.log_message


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([0.0], 0.5),
        ([2.0], 0.880797),
        ([-2.0], 0.119203),
        ([800.0], 1.0),
        ([-800.0], 0.0),
        ([0.75, 0.25], 0.75),  # probabilities already
        ([2.0, 0.0], 0.880797),
        ([900.0, -900.0], 1.0),
        ([1.0, 1.0, 1.0, 1.0], 0.25),
    ],
)
def test_the_outputs_of_a_classifier_become_a_share_of_one(outputs: list[float], expected: float) -> None:
    assert relevance(outputs) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=2, unique=True))
def test_a_greater_logit_is_never_less_relevant(logits: list[float]) -> None:
    low, high = sorted(logits)
    assert 0 <= relevance([low]) <= relevance([high]) <= 1
