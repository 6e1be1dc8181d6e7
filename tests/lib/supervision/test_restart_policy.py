from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.supervision.restart_policy import RestartPolicy


def test_the_third_death_in_ten_minutes_is_the_last() -> None:
    policy = RestartPolicy()
    assert [policy.pause_after_death(now_s) for now_s in (0.0, 300.0, 599.9)] == [1.0, 2.0, None]


def test_deaths_that_are_ten_minutes_apart_are_each_the_first() -> None:
    policy = RestartPolicy()
    assert [policy.pause_after_death(now_s) for now_s in (0.0, 600.0, 1200.0)] == [1.0, 1.0, 1.0]


def test_the_pause_doubles_up_to_a_minute_for_an_engine_that_dies_again_and_again_but_slowly() -> None:
    policy = RestartPolicy()
    pauses = [policy.pause_after_death(350.0 * count) for count in range(9)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


@given(st.lists(st.floats(0, 400), max_size=30), st.integers(2, 5))
def test_there_is_no_start_after_the_most_deaths_and_always_one_before(gaps: list[float], most: int) -> None:
    policy = RestartPolicy(most_deaths=most)
    deaths: list[float] = []
    pauses: list[float] = []
    now_s = 0.0
    for gap in gaps:
        now_s += gap
        deaths = [death for death in deaths if now_s - death < policy.window_s] + [now_s]
        pause_s = policy.pause_after_death(now_s)
        assert (pause_s is None) == (len(deaths) >= most)
        if pause_s is not None:
            pauses.append(pause_s)
    assert all(policy.first_pause_s <= pause <= policy.longest_pause_s for pause in pauses)


def test_starts_that_the_host_has_no_means_for_are_pauses_apart_that_double_and_count_as_no_death() -> None:
    policy = RestartPolicy()
    assert policy.pause_after_death(0.0) == 1.0
    assert [policy.pause_after_no_start() for _ in range(7)] == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert policy.pause_after_death(500.0) == 60.0
