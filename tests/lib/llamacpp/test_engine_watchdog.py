from collections.abc import Callable, Iterable

import pytest

from neuron_lib.engine.protocol import (
    Beat,
    Cancelled,
    Delta,
    Prepared,
    Progress,
    Ready,
    Refused,
    Report,
    StepEvents,
    Taken,
    Work,
)
from neuron_lib.error_frames import to_frame
from neuron_lib.errors import InvalidRequest
from neuron_lib.llamacpp.engine_watchdog import EngineWatchdog
from tests.fakes.fake_engine import FACTS

READY = Ready(FACTS)
BUSY = Beat(step=7, in_flight=1, rss_bytes=1)
IDLE = Beat(step=7, in_flight=0, rss_bytes=1)


def looked(times: int, *, beat: Beat | None) -> EngineWatchdog:
    """One that was looked at each second, with a beat before every look."""
    watchdog = EngineWatchdog(stall_limit_s=100, silence_limit_s=30)
    assert watchdog.look_s == 1
    watchdog.hear(READY)
    watchdog.hear(BUSY)
    for _ in range(times):
        if beat is not None:
            watchdog.hear(beat)
        watchdog.look()
    return watchdog


def test_an_engine_with_nothing_to_do_may_rest() -> None:
    assert looked(1000, beat=IDLE).suspicion is None


@pytest.mark.parametrize(
    ("looks", "suspicion", "verdict"),
    [
        (49, None, None),
        (50, "no progress for 50 s", None),
        (99, "no progress for 99 s", None),
        (100, "no progress for 100 s", "no progress for 100 s"),
    ],
)
def test_an_engine_with_work_must_take_steps(looks: int, suspicion: str | None, verdict: str | None) -> None:
    watchdog = looked(looks, beat=BUSY)
    assert (watchdog.suspicion, watchdog.verdict) == (suspicion, verdict)


@pytest.mark.parametrize(
    "answer",
    [
        Prepared(request=2, prompt_tokens=1),
        Refused(2, to_frame(InvalidRequest("no"))),
        Taken((2,)),
        Cancelled(2),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_what_is_said_of_requests_that_wait_behind_a_step_is_no_progress(answer: Report) -> None:
    watchdog = looked(0, beat=None)
    for _ in range(100):
        watchdog.hear(BUSY)
        watchdog.hear(answer)
        watchdog.look()
    assert watchdog.verdict == "no progress for 100 s"


@pytest.mark.parametrize(
    ("looks", "suspicion", "verdict"),
    [(14, None, None), (15, "silent for 15 s", None), (30, "silent for 30 s", "silent for 30 s")],
)
def test_an_engine_must_beat_whatever_it_does(looks: int, suspicion: str | None, verdict: str | None) -> None:
    watchdog = looked(looks, beat=None)
    assert (watchdog.suspicion, watchdog.verdict) == (suspicion, verdict)


@pytest.mark.parametrize(
    "report",
    [StepEvents(8, (Delta(1, "a"),)), Beat(step=8, in_flight=1, rss_bytes=1), IDLE, Progress(0.1)],
    ids=["events", "step", "nothing to do", "load"],
)
def test_one_sign_of_progress_is_enough(report: StepEvents | Beat | Progress) -> None:
    watchdog = looked(29, beat=None)
    watchdog.hear(report)
    assert watchdog.suspicion is None


def loading(*, rss_bytes: int = 1 << 34, read_bytes: int = 1 << 34) -> Beat:
    return Beat(step=0, in_flight=0, rss_bytes=rss_bytes, read_bytes=read_bytes)


@pytest.mark.parametrize(
    "beat", [lambda n: loading(rss_bytes=n), lambda n: loading(read_bytes=n)], ids=["grow", "read"]
)
def test_a_load_gets_on_as_long_as_the_process_grows_or_reads(beat: Callable[[int], Beat]) -> None:
    watchdog = EngineWatchdog(stall_limit_s=100, silence_limit_s=30)
    so_far = 0
    for growth in [1 << 20] * 200 + [1] * 99:
        so_far += growth
        watchdog.look()
        watchdog.hear(beat(so_far))
    assert watchdog.verdict is None
    watchdog.look()
    assert watchdog.verdict == "no progress for 100 s"


def test_before_its_first_beat_an_engine_may_be_silent_for_longer() -> None:
    watchdog = EngineWatchdog(stall_limit_s=100, silence_limit_s=30)
    watchdog.hear(Progress(0.1))
    for _ in range(49):
        watchdog.look()
    assert watchdog.suspicion is None


def compiling(number: int, *, step: int = 7, in_flight: int = 0) -> Beat:
    """While that many grammars are done and one is not."""
    return Beat(
        step=step, in_flight=in_flight, rss_bytes=1, work=(Work("a prompt", 3, 0), Work("a grammar", number, 1))
    )


def watched(beats: Iterable[Beat]) -> EngineWatchdog:
    watchdog = looked(0, beat=None)
    for beat in beats:
        watchdog.hear(beat)
        watchdog.hear(StepEvents(beat.step, ()))
        watchdog.look()
    return watchdog


def test_a_grammar_that_hangs_is_found_though_steps_go_on() -> None:
    beats = [compiling(0, step=step, in_flight=1) for step in range(100)]
    assert watched(beats[:49]).suspicion is None
    assert watched(beats[:50]).suspicion == "no progress with a grammar for 50 s"
    assert watched(beats).verdict == "no progress with a grammar for 100 s"


def test_a_step_that_hangs_is_found_though_grammars_go_on() -> None:
    watchdog = looked(0, beat=None)
    for number in range(100):
        watchdog.hear(compiling(number, in_flight=1))
        watchdog.look()
    assert watchdog.verdict == "no progress for 100 s"


def test_an_engine_that_compiles_one_grammar_after_another_gets_on() -> None:
    assert watched(compiling(number // 40) for number in range(1000)).suspicion is None


def test_a_long_prompt_that_hangs_is_found_though_others_are_read() -> None:
    beats = [
        Beat(step=7, in_flight=0, rss_bytes=1, work=(Work("a prompt", number, 1), Work("a long prompt", 3, 1)))
        for number in range(100)
    ]
    assert watched(beats).verdict == "no progress with a long prompt for 100 s"


def test_a_grammar_that_was_done_at_last_is_forgotten() -> None:
    assert watched([compiling(0)] * 99 + [IDLE] * 99).suspicion is None
