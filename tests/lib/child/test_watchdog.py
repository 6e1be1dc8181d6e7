"""Liveness in looks: no clock, no process. What an engine's reports mean is tested in `test_engine_watchdog`."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.child.watchdog import Watchdog


def watchdog(*, stall_limit_s: float = 100, silence_limit_s: float = 30, silence_counts: bool = True) -> Watchdog:
    return Watchdog(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s, silence_counts=silence_counts)


@pytest.mark.parametrize(
    ("stall_limit_s", "silence_limit_s", "look_s"),
    [(300, 30, 1), (300, 5, 0.5), (2, 30, 0.2), (math.inf, 120, 1), (math.inf, math.inf, 1)],
)
def test_looks_are_a_second_apart_and_ten_for_a_short_limit(
    stall_limit_s: float, silence_limit_s: float, look_s: float
) -> None:
    assert watchdog(stall_limit_s=stall_limit_s, silence_limit_s=silence_limit_s).look_s == look_s


@pytest.mark.parametrize(
    ("looks", "suspicion", "verdict"),
    [(14, None, None), (15, "silent for 15 s", None), (30, "silent for 30 s", "silent for 30 s")],
)
def test_a_child_that_says_nothing_is_suspected_first_and_judged_then(
    looks: int, suspicion: str | None, verdict: str | None
) -> None:
    dog = watchdog()
    for _ in range(looks):
        dog.look()
    assert (dog.suspicion, dog.verdict) == (suspicion, verdict)


def test_a_sign_of_life_is_no_progress() -> None:
    dog = watchdog()
    for _ in range(100):
        dog.note_life()
        dog.look()
    assert dog.verdict == "no progress for 100 s"


def test_progress_is_no_sign_of_life() -> None:
    dog = watchdog()
    for _ in range(30):
        dog.note_progress()
        dog.look()
    assert dog.verdict == "silent for 30 s"


def test_silence_that_does_not_count_yet_is_no_verdict() -> None:
    dog = watchdog(silence_counts=False)
    for _ in range(49):
        dog.look()
    assert dog.suspicion is None


@given(st.lists(st.sampled_from(["life", "progress", "work", "more work", "look"]), max_size=100))
def test_no_limit_is_never_reached(signs: list[str]) -> None:
    dog, done = watchdog(stall_limit_s=math.inf, silence_limit_s=math.inf), 0
    for sign in signs:
        match sign:
            case "life":
                dog.note_life()
            case "progress":
                dog.note_progress()
            case "work" | "more work":
                done += sign == "more work"
                dog.note_work({"a": done})
            case _:
                dog.look()
    assert dog.suspicion is None


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_child_is_judged_after_as_many_looks_without_progress_as_its_limit_has(gets_on: list[bool]) -> None:
    dog, still = watchdog(), 0
    for progress in gets_on:
        dog.note_life()
        if progress:
            dog.note_progress()
            still = 0
        dog.look()
        still += 1
        assert dog.verdict == (f"no progress for {still} s" if still >= 100 else None)


def test_each_work_has_a_limit_of_its_own() -> None:
    dog = watchdog()
    for number in range(100):
        dog.note_life()
        dog.note_progress()
        dog.note_work({"a prompt": number, "a grammar": 3})
        assert dog.verdict is None
        dog.look()
    assert dog.verdict == "no progress with a grammar for 100 s"
    dog.note_work({"a prompt": 100})  # the grammar is done
    assert dog.suspicion is None
