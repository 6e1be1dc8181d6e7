import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib import LoadProgress, LoadStage
from neuron_lib.registry.progress import ProgressLog, advance, describe

RESOLVING, DOWNLOADING, VERIFYING, LOADING, WARMING = LoadStage
MB, GB = 10**6, 10**9
START = LoadProgress(stage=RESOLVING)


def downloading(fraction: float, **fields: Any) -> LoadProgress:
    return LoadProgress(stage=DOWNLOADING, fraction=fraction, **fields)


# ---------------------------------------------------------------------------------------------------------- advance


@pytest.mark.parametrize(
    ("previous", "reported", "shown"),
    [
        pytest.param(
            START,
            LoadProgress(stage=DOWNLOADING, file="a.gguf", bytes=10, total_bytes=40, bytes_per_s=5, eta_s=6),
            LoadProgress(
                stage=DOWNLOADING, fraction=0.25, file="a.gguf", bytes=10, total_bytes=40, bytes_per_s=5, eta_s=6
            ),
            id="the fraction follows from the bytes",
        ),
        pytest.param(
            START,
            LoadProgress(stage=DOWNLOADING, fraction=0.5, bytes=10, total_bytes=40),
            LoadProgress(stage=DOWNLOADING, fraction=0.5, bytes=10, total_bytes=40),
            id="unless the harness knows better",
        ),
        pytest.param(
            START,
            LoadProgress(stage=DOWNLOADING, bytes=0, total_bytes=0),
            LoadProgress(stage=DOWNLOADING, bytes=0, total_bytes=0),
            id="of nothing there is no fraction",
        ),
        pytest.param(downloading(0.5), START, downloading(0.5), id="a stage that is over does not come back"),
        pytest.param(
            LoadProgress(stage=VERIFYING, fraction=0.9, bytes=9),
            LoadProgress(stage=LOADING, fraction=0.1),
            LoadProgress(stage=LOADING, fraction=0.1),
            id="a new stage counts anew",
        ),
        pytest.param(
            downloading(0.5, bytes=20, total_bytes=40, bytes_per_s=9, eta_s=9),
            downloading(0.4, bytes=10, total_bytes=30),
            downloading(0.5, bytes=20, total_bytes=40),
            id="counts never fall, rate and time left may become unknown",
        ),
        pytest.param(
            LoadProgress(stage=DOWNLOADING, file="a.gguf", fraction=0.5),
            LoadProgress(stage=DOWNLOADING),
            LoadProgress(stage=DOWNLOADING, file="a.gguf", fraction=0.5),
            id="what was known stays known",
        ),
        pytest.param(
            START,
            downloading(-0.5, bytes=-1, bytes_per_s=-1, eta_s=-1),
            downloading(0.0, bytes=0, bytes_per_s=0, eta_s=0),
            id="nothing is negative",
        ),
        pytest.param(START, downloading(7.0), downloading(1.0), id="nothing is more than whole"),
        pytest.param(
            LoadProgress(stage=RESOLVING, queue_position=3),
            LoadProgress(stage=RESOLVING, queue_position=2),
            LoadProgress(stage=RESOLVING, queue_position=2),
            id="a position in the line is as reported",
        ),
        pytest.param(LoadProgress(stage=RESOLVING, queue_position=1), START, START, id="a line is left"),
        pytest.param(START, downloading(math.nan), downloading(0.0), id="a fraction is a number"),
    ],
)
def test_what_is_shown_after_a_report(previous: LoadProgress, reported: LoadProgress, shown: LoadProgress) -> None:
    assert advance(previous, reported) == shown


counts = st.none() | st.integers(-5, 5)
reports = st.builds(
    LoadProgress,
    stage=st.sampled_from(LoadStage),
    fraction=st.none() | st.floats(),
    file=st.none() | st.sampled_from(["a", "b"]),
    bytes=counts,
    total_bytes=counts,
    bytes_per_s=counts,
    eta_s=counts,
    queue_position=counts,
)


@given(st.lists(reports))
def test_whatever_a_harness_reports_nothing_goes_back_and_nothing_is_off_the_scale(said: list[LoadProgress]) -> None:
    shown = START
    for report in said:
        previous, shown = shown, advance(shown, report)
        assert shown.fraction is None or 0.0 <= shown.fraction <= 1.0
        assert all((n or 0) >= 0 for n in (shown.bytes, shown.total_bytes, shown.bytes_per_s, shown.eta_s))
        stages = list(LoadStage)
        assert stages.index(shown.stage) >= stages.index(previous.stage)
        if shown.stage is previous.stage:
            for before, after in (
                (previous.bytes, shown.bytes),
                (previous.total_bytes, shown.total_bytes),
                (previous.fraction, shown.fraction),
            ):
                assert before is None or (after is not None and after >= before)
        assert advance(shown, report) == shown, "a report that is repeated changes nothing"


# --------------------------------------------------------------------------------------------------------- describe


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (START, "resolving"),
        (LoadProgress(stage=RESOLVING, queue_position=3), "resolving, number 3 in the line for a fetch"),
        (LoadProgress(stage=LOADING, fraction=0.999), "loading 99 %"),
        (
            downloading(0.42, bytes=1200 * MB, total_bytes=2900 * MB, bytes_per_s=38 * MB, eta_s=45),
            "downloading 42 %, 1.2 of 2.9 GB, 38 MB/s, 45 s left",
        ),
        (downloading(0.05, bytes=5 * MB, total_bytes=100 * MB), "downloading 5 %, 5.0 of 100 MB"),
        (
            downloading(0.05, bytes=10 * GB, total_bytes=200 * GB, eta_s=601),
            "downloading 5 %, 10 of 200 GB, 10 min left",
        ),
        (LoadProgress(stage=DOWNLOADING, bytes=3 * MB, bytes_per_s=0), "downloading, 3.0 MB, 0.0 MB/s"),
    ],
)
def test_progress_in_words_says_what_is_known(progress: LoadProgress, text: str) -> None:
    assert describe(progress) == text


# -------------------------------------------------------------------------------------------------------------- log


def lines(*steps: tuple[float, LoadProgress]) -> list[tuple[float, str]]:
    """When what was logged."""
    log = ProgressLog()
    said = [(now_s, log.line(progress, now_s=now_s)) for now_s, progress in steps]
    return [(now_s, line) for now_s, line in said if line is not None]


def test_the_begin_of_a_wait_for_other_fetches_is_logged_once() -> None:
    positions = [None, 3, 2, 1, None]
    assert lines(*((0.0, LoadProgress(stage=RESOLVING, queue_position=position)) for position in positions)) == [
        (0.0, "loading model: resolving"),
        (0.0, "model load waits: resolving, number 3 in the line for a fetch"),
    ]


def test_each_stage_is_logged_once_however_fast_it_passes() -> None:
    assert lines(*((0.0, LoadProgress(stage=stage)) for stage in LoadStage for _ in range(3))) == [
        (0.0, f"loading model: {stage}") for stage in LoadStage
    ]


def test_further_tenths_are_logged_but_not_within_ten_seconds() -> None:
    steps = [(float(second), downloading(second / 32)) for second in range(31)]
    assert lines(*steps) == [
        (0.0, "loading model: downloading"),
        (10.0, "model load progress: downloading 31 %"),
        (20.0, "model load progress: downloading 62 %"),
        (30.0, "model load progress: downloading 93 %"),
    ]


def test_a_slow_stage_is_logged_each_minute_while_bytes_move() -> None:
    steps = [(float(second), downloading(0.0, bytes=second * MB)) for second in range(0, 130, 5)]
    assert lines(*steps) == [
        (0.0, "loading model: downloading"),
        (60.0, "model load progress: downloading 0 %, 60 MB"),
        (120.0, "model load progress: downloading 0 %, 120 MB"),
    ]


def test_a_stage_that_stands_still_is_not_logged_again() -> None:
    steps = [(float(second), downloading(0.5, bytes=MB, bytes_per_s=second)) for second in range(0, 200, 5)]
    assert lines(*steps) == [(0.0, "loading model: downloading")]


@given(st.lists(st.tuples(st.floats(0, 100), reports), max_size=50))
def test_lines_of_one_stage_are_ten_seconds_apart_but_for_the_begin_of_a_wait(
    waits_and_reports: list[tuple[float, LoadProgress]],
) -> None:
    log, shown, now_s = ProgressLog(), START, 0.0
    last_stage, last_s, was_waiting = None, 0.0, False
    for wait_s, report in waits_and_reports:
        now_s, shown = now_s + wait_s, advance(shown, report)
        if log.line(shown, now_s=now_s) is not None:
            is_waiting = shown.queue_position is not None
            assert shown.stage is not last_stage or now_s - last_s >= 10 or (is_waiting and not was_waiting)
            last_stage, last_s, was_waiting = shown.stage, now_s, is_waiting
