"""How prompts are compared."""

from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.engine.remembered import common_prefix

TOKENS = st.lists(st.integers(-1, 1), max_size=40)


@given(TOKENS, TOKENS, st.integers(0, 50))
def test_the_common_prefix_is_found_without_looking_at_every_token(
    left: list[int], right: list[int], limit: int
) -> None:
    expected = 0
    while expected < min(len(left), len(right), limit) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix(left, right, limit) == expected


def test_positions_of_media_are_equal_only_to_themselves() -> None:
    picture, other_picture = [-7, -8, -9], [-7, -8, -10]
    assert common_prefix([1, *picture, 2], [1, *picture, 2], 9) == 5
    assert common_prefix([1, *picture, 2], [1, *other_picture, 2], 9) == 3
    assert common_prefix([1, *picture, 2], [1, 7, 8, 9, 2], 9) == 1
