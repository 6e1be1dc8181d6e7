"""A fetch process seen from outside: what it says, how it ends, and that nothing of it is left."""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import anyio
import msgspec
import pytest
from anyio.abc import TaskStatus
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock

from neuron_lib.config import DownloadConfig
from neuron_lib.error_frames import ErrorFrame, to_frame
from neuron_lib.errors import LoadFailed, NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.harness import ProgressReporter
from neuron_lib.sources.fetch_process import RateMeter, fetch_environment, run_fetch
from neuron_lib.sources.fetch_protocol import (
    Advance,
    Alive,
    Failed,
    Fetched,
    FetchOrder,
    Frame,
    decode_frame,
    decode_order,
    encode_line,
)
from neuron_lib.sources.fetch_worker import RateWatch
from neuron_lib.sources.repository import Listing, RepoFile
from neuron_lib.types import LoadProgress, LoadStage, public_id
from tests.fakes.cancelled_spawn import cancel_in_the_spawn
from tests.fakes.log_lines import said
from tests.fakes.model_cache import children, order_for, repository_in
from tests.fakes.turns import let_others_run

TOKEN = "hf_secret"  # noqa: S105
ORDER = order_for(repository_in(Path("/cache"), token=TOKEN), quant="q8_0")
ADVANCE = Advance(stage=LoadStage.DOWNLOADING, file="m.gguf", bytes=5, total_bytes=10)
BRIEF = order_for(ORDER.repository, limits=DownloadConfig(min_rate_window_secs=1))
LONG = Listing("c" * 40, (RepoFile("x" * 1_000_000),))
FETCHED = Fetched(commit="c" * 40, paths=(Path("/cache/m.gguf"),))


def child(script: str, *arguments: str) -> Sequence[str]:
    """A shell in the place of the fetch process; it has read the order when `script` begins."""
    return ("sh", "-c", f"read -r order; {script}", "sh", *arguments)


def says(*frames: Frame, then: str = "") -> Sequence[str]:
    lines = [encode_line(frame).decode().rstrip("\n") for frame in frames]
    return child(f"""printf '%s\\n' "$@"; {then}""", *lines)


async def run(
    command: Sequence[str], *, order: FetchOrder = ORDER, report: ProgressReporter = lambda _: None, **options: Any
) -> Fetched:
    options |= {"environment": fetch_environment(os.environ), "report": report, "command": command}
    try:
        return await run_fetch(order, **options)
    finally:
        assert not children()


async def failure(command: Sequence[str], **options: Any) -> NeuronError:
    with pytest.raises(NeuronError) as raised:
        await run(command, **options)
    assert TOKEN not in raised.value.message
    return raised.value


# ----------------------------------------------------------------------------------------------------- what it says


@pytest.mark.both_loops
@pytest.mark.process
@pytest.mark.anyio
async def test_a_process_reports_how_far_it_is_and_then_where_the_files_are() -> None:
    seen: list[LoadProgress] = []
    assert await run(says(ADVANCE, FETCHED), report=seen.append) == FETCHED
    assert [(p.stage, p.file, p.bytes, p.total_bytes, p.fraction) for p in seen] == [
        (LoadStage.DOWNLOADING, "m.gguf", 5, 10, 0.5)
    ]


@pytest.mark.process
@pytest.mark.anyio
async def test_the_order_is_one_line_on_stdin(tmp_path: Path) -> None:
    await run(
        child('printf %s "$order" > "$1"; printf "%s\\n" "$2"', str(tmp_path / "o"), encode_line(FETCHED).decode())
    )
    assert decode_order((tmp_path / "o").read_bytes()) == ORDER


@pytest.mark.process
@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [
        PreflightFailed(PreflightKind.GATED_REPO, "gated", model_id=ORDER.repository.model_id, cause="why"),
        SourceUnavailable("ill", model_id=ORDER.repository.model_id, retry_after_s=60),
        LoadFailed("a bug", model_id=ORDER.repository.model_id),
    ],
)
async def test_an_error_of_the_process_is_raised_as_what_it_was_there(error: NeuronError) -> None:
    found = await failure(says(ADVANCE, Failed(to_frame(error))))
    assert type(found) is type(error)
    assert vars(found) == vars(error)


@pytest.mark.process
@pytest.mark.anyio
async def test_an_error_of_a_kind_that_is_not_known_is_a_failure_that_stays() -> None:
    found = await failure(says(Failed(ErrorFrame(code="of_a_newer_process", message="m"))))
    assert type(found) is LoadFailed
    assert found.message.startswith("m (")


@pytest.mark.process
@pytest.mark.anyio
async def test_the_log_of_the_process_goes_into_ours_with_its_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run(says(FETCHED, then='printf "WARNING slow\\nINFO fine\\nTraceback of something\\n\\nhalf a line" >&2'))
    assert [(record.levelname, said(record)) for record in caplog.records] == [
        ("WARNING", "slow"),
        ("INFO", "fine"),
        ("WARNING", "Traceback of something"),
    ]
    assert {record.name for record in caplog.records} == {"neuron_lib.sources.fetch_worker"}
    assert {vars(record)["model_id"] for record in caplog.records} == {public_id(ORDER.repository.model_id)}


@pytest.mark.process
@pytest.mark.anyio
async def test_a_line_of_the_process_is_cut_and_has_no_token_in_it(caplog: pytest.LogCaptureFixture) -> None:
    script = f'printf "WARNING refused {TOKEN} %s\\n" "$(printf "%.0sword " $(seq 100000))" >&2; exit 1'
    error = await failure(child(script))
    [record] = caplog.records
    assert said(record).startswith("refused … word word")
    assert len(said(record)) <= 1000
    assert len(error.message) < 1200


# ------------------------------------------------------------------------------------------------------ how it ends


@pytest.mark.process
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 3", "ended without an answer, with status 3"),
        ("kill -9 $$", "with status -9"),
        ("echo 'ERROR the disk is on fire' >&2; exit 1", "with status 1 (the disk is on fire)"),
        ("", "with status 0"),
    ],
)
async def test_a_process_that_dies_is_worth_a_retry_and_its_last_words_are_told(script: str, expected: str) -> None:
    error = await failure(child(script))
    assert isinstance(error, SourceUnavailable)
    assert expected in error.message


@pytest.mark.process
@pytest.mark.anyio
@pytest.mark.parametrize(
    "line", ["nonsense", "{}", '{"type":"other"}', '{"type":"advance"}', "[" * 1000, "\\377", ""], ids=range(7)
)
async def test_a_process_that_talks_nonsense_is_ended(line: str, caplog: pytest.LogCaptureFixture) -> None:
    error = await failure(child(f"printf '{line}\\n'"))
    assert isinstance(error, SourceUnavailable)
    assert "a line that is no frame" in caplog.text


@pytest.mark.process
@pytest.mark.anyio
async def test_a_line_without_an_end_is_not_read_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(await failure(child("head -c 1100000 /dev/zero")), SourceUnavailable)
    assert "a line that is no frame" in caplog.text


@pytest.mark.process
@pytest.mark.anyio
async def test_much_on_stderr_without_an_end_of_line_does_not_stop_anything() -> None:
    script = 'head -c 3000000 /dev/zero >&2; printf "%s\\n" "$1"'
    assert await run(child(script, encode_line(FETCHED).decode())) == FETCHED


@pytest.mark.process
@pytest.mark.anyio
async def test_a_process_that_does_not_read_its_order_says_so_by_its_end() -> None:
    command, order = ("sh", "-c", "exit 5"), order_for(ORDER.repository, listing=LONG)
    assert "with status 5" in (await failure(command, order=order)).message


@pytest.mark.process
@pytest.mark.anyio
@pytest.mark.parametrize("command", ["/nonexistent/python", "/"])
async def test_a_process_that_cannot_be_started_is_worth_a_retry(command: str) -> None:
    error = await failure((command,))
    assert isinstance(error, SourceUnavailable)
    assert "cannot be started" in error.message


@pytest.mark.anyio
async def test_so_is_one_for_which_the_host_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_process(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(anyio, "open_process", open_process)
    error = await failure(("true",))
    assert isinstance(error, SourceUnavailable)
    assert "cannot be started" in error.message


@pytest.mark.both_loops
@pytest.mark.process
@pytest.mark.anyio
async def test_cancelling_ends_a_process_that_does_not_want_to() -> None:
    async def start(task_status: TaskStatus[None]) -> None:
        stubborn = says(ADVANCE, then="trap '' TERM INT HUP; exec sleep 600")
        await run(stubborn, report=lambda _: task_status.started())

    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: start(task_status))
        assert len(children()) == 1
        tasks.cancel_scope.cancel()
    assert not children()


@pytest.mark.both_loops
@pytest.mark.process
@pytest.mark.anyio
async def test_cancelling_in_the_middle_of_the_spawn_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with anyio.CancelScope() as scope:
        cancel_in_the_spawn(monkeypatch, scope)
        await run(child("exec sleep 600"))
    assert scope.cancelled_caught


@pytest.mark.both_loops
@pytest.mark.process
@pytest.mark.anyio
async def test_a_report_that_raises_ends_the_process() -> None:
    def refuse(_: LoadProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        await run(says(ADVANCE, then="exec sleep 600"), report=refuse)
    assert raised.group_contains(ZeroDivisionError)


@pytest.mark.process
@pytest.mark.anyio
@pytest.mark.parametrize("then", ["kill -STOP $$", "exec sleep 600"])
async def test_a_process_that_says_nothing_any_more_is_ended_and_worth_a_retry(then: str) -> None:
    error = await failure(says(Alive(), ADVANCE, then=then), order=BRIEF, silence_limit_s=0)
    assert isinstance(error, SourceUnavailable)
    assert "was silent for 1 s" in error.message


@pytest.mark.process
@pytest.mark.anyio
async def test_a_process_that_does_not_even_take_its_order_is_ended() -> None:
    order = order_for(ORDER.repository, limits=BRIEF.limits, listing=LONG)
    assert "was silent" in (await failure(("sh", "-c", "kill -STOP $$"), order=order, silence_limit_s=0)).message


@pytest.mark.process
class TestDeadline:
    """In virtual time, so on trio alone."""

    @pytest.fixture
    def clock(self) -> MockClock:
        return MockClock()

    @pytest.fixture
    def anyio_backend(self, clock: MockClock) -> tuple[str, dict[str, MockClock]]:
        return "trio", {"clock": clock}

    @pytest.mark.anyio
    async def test_a_process_is_ended_at_the_deadline_of_its_order(self, clock: MockClock) -> None:
        order = order_for(ORDER.repository, limits=DownloadConfig(deadline_secs=7200))
        jumps = iter([7199.0, 1.0])
        command = says(ADVANCE, ADVANCE, then="exec sleep 600")
        error = await failure(command, order=order, report=lambda _: clock.jump(next(jumps)))
        assert isinstance(error, SourceUnavailable)
        assert "longer than 7200 s" in error.message
        assert not list(jumps)

    @pytest.mark.anyio
    async def test_a_daemon_that_is_stopped_again_and_again_does_not_blame_the_process(
        self, clock: MockClock, tmp_path: Path
    ) -> None:
        os.mkfifo(path := tmp_path / "go on")
        go_on = os.open(path, os.O_RDWR)  # for both sides, so that opening it waits for nobody
        clock.rate = 1  # or a failure would wait for ever

        async def be_stopped() -> None:
            clock.jump(10_000)
            await let_others_run()
            os.write(go_on, b"\n")

        lines = (encode_line(frame).decode() for frame in (ADVANCE, FETCHED))
        command = child('for _ in 1 2 3; do printf %s "$1"; read -r _ < "$3"; done; printf %s "$2"', *lines, str(path))
        with os.fdopen(go_on):
            async with anyio.create_task_group() as tasks:

                def report(_: LoadProgress) -> None:
                    tasks.start_soon(be_stopped)

                assert await run(command, order=BRIEF, report=report, silence_limit_s=1) == FETCHED


# --------------------------------------------------------------------------------------------------- what it is given


def test_a_process_is_given_the_way_to_the_network_and_no_secret() -> None:
    environ = {
        "PATH": "/bin", "HOME": "/root", "LC_ALL": "C", "https_proxy": "http://p", "NO_PROXY": "h",
        "SSL_CERT_FILE": "/c",
        "HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://e", "AWS_SECRET": "s", "LD_PRELOAD": "/x.so",
    }  # fmt: skip
    given_to_it = fetch_environment(environ)
    assert {name for name in environ if name in given_to_it} == {
        "PATH", "HOME", "LC_ALL", "https_proxy", "NO_PROXY", "SSL_CERT_FILE",
    }  # fmt: skip
    assert "hf_secret" not in str(given_to_it)
    assert given_to_it["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"  # noqa: S105 - no password


def test_a_process_finds_this_library_wherever_it_is() -> None:
    root = Path(sys.modules[run_fetch.__module__].__file__ or "").parents[2]
    assert fetch_environment({"PYTHONPATH": "/more"})["PYTHONPATH"] == f"{root}:/more"


FIELDS = st.dictionaries(st.text(), st.none() | st.integers(0, 2**53) | st.text() | st.booleans(), max_size=3)
FRAMES = st.one_of(
    st.builds(
        Advance,
        stage=st.sampled_from(LoadStage),
        file=st.text(),
        bytes=st.integers(0, 2**53),
        total_bytes=st.integers(0, 2**53),
    ),
    st.just(Alive()),
    st.builds(Fetched, commit=st.text(), paths=st.lists(st.sampled_from([Path("/a b"), Path("/ü\n")])).map(tuple)),
    st.builds(Failed, st.builds(ErrorFrame, code=st.text(), message=st.text(), fields=FIELDS, attributes=FIELDS)),
)


@given(FRAMES)
def test_whatever_a_frame_says_it_is_one_line_and_read_as_it_was(frame: Frame) -> None:
    line = encode_line(frame)
    assert line.count(b"\n") == 1
    assert decode_frame(line) == frame


@given(st.binary(max_size=50))
def test_any_other_line_is_refused_as_one_kind_of_error(line: bytes) -> None:
    for decode in (decode_frame, decode_order):
        with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)) as raised:
            decode(line)
        assert raised.type is not UnicodeDecodeError


# ------------------------------------------------------------------------------------------------------------ rates

STEPS = st.lists(st.tuples(st.floats(0.01, 30), st.integers(0, 10**9)), min_size=1, max_size=30)


@given(STEPS)
def test_a_rate_is_that_of_the_last_ten_seconds_and_the_time_left_follows_from_it(
    steps: list[tuple[float, int]],
) -> None:
    meter, now_s, done = RateMeter(), 0.0, 0
    total = sum(more for _, more in steps)
    samples: list[tuple[float, int]] = []
    for passed_s, more in steps:
        now_s, done = now_s + passed_s, done + more
        samples.append((now_s, done))
        told = meter.progress(now_s, Advance(stage=LoadStage.DOWNLOADING, file="m", bytes=done, total_bytes=total))
        began_s, began = next(sample for sample in samples if sample[0] >= now_s - 10)
        assert told.bytes == done
        assert told.fraction == (done / total if total else None)
        if done > began and now_s - began_s >= 0.001:
            assert told.bytes_per_s == round((done - began) / (now_s - began_s))
            assert told.eta_s == ((total - done) // told.bytes_per_s if told.bytes_per_s else None)
        else:
            assert told.bytes_per_s is told.eta_s is None


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(-100, 2 * 10**9)), max_size=20), st.integers(0, 10**9))
@example([(0.0, 0), (1e-311, 10**9)], 10**9)
def test_nothing_a_process_says_makes_a_rate_impossible(steps: list[tuple[float, int]], total: int) -> None:
    meter, now_s = RateMeter(), 0.0
    for passed_s, done in steps:
        now_s += passed_s
        told = meter.progress(now_s, Advance(stage=LoadStage.DOWNLOADING, file="m", bytes=done, total_bytes=total))
        assert told.fraction is None or told.fraction <= 1
        assert told.bytes_per_s is None or told.bytes_per_s >= 0
        assert told.eta_s is None or told.eta_s >= 0


@given(STEPS, st.floats(1, 100), st.floats(0, 10**6))
def test_a_transfer_is_slow_when_a_whole_window_of_it_was(
    steps: list[tuple[float, int]], window_s: float, min_bytes_per_s: float
) -> None:
    watch, now_s, done = RateWatch(min_bytes_per_s=min_bytes_per_s, window_s=window_s), 0.0, 0
    samples: list[tuple[float, int]] = []
    for passed_s, more in steps:
        now_s, done = now_s + passed_s, done + more
        samples.append((now_s, done))
        before = [sample for sample in samples if sample[0] <= now_s - window_s]
        began_s, began = before[-1] if before else samples[0]
        is_slow = now_s - began_s >= window_s and done - began < min_bytes_per_s * (now_s - began_s)
        assert watch.is_slow(now_s, done) == is_slow


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=20), st.floats(1, 60))
def test_a_transfer_at_twice_the_least_rate_is_never_slow(pauses_s: list[float], window_s: float) -> None:
    watch, now_s = RateWatch(min_bytes_per_s=1000, window_s=window_s), 0.0
    for pause_s in pauses_s:
        now_s += pause_s
        assert not watch.is_slow(now_s, math.ceil(now_s * 2000))


def test_a_file_that_is_read_again_has_a_window_of_its_own() -> None:
    watch = RateWatch(min_bytes_per_s=1000, window_s=60)
    seen = [(0.0, 0), (61.0, 10**9), (62.0, 0), (100.0, 10**6), (121.0, 2 * 10**6), (122.0, 2 * 10**6)]
    assert not any(watch.is_slow(*sample) for sample in seen)
    assert watch.is_slow(200.0, 2 * 10**6)


def test_a_process_that_is_waited_for_is_not_slow_as_long_as_it_gives_signs() -> None:
    watch = RateWatch(min_bytes_per_s=1000, window_s=60)
    assert not any(watch.is_slow(40.0 * step, 0, signs=step) for step in range(100))
    now_s = 40.0 * 99
    assert not watch.is_slow(now_s + 59, 0, signs=99)
    assert watch.is_slow(now_s + 60, 0, signs=99)


def test_no_least_rate_means_that_nothing_is_slow() -> None:
    watch = RateWatch(min_bytes_per_s=0, window_s=1)
    assert not any(watch.is_slow(float(now_s), 0) for now_s in range(1000))


@pytest.mark.process
def test_a_fetch_process_leaves_hang_ups_and_interrupts_to_the_daemon() -> None:
    command = [sys.executable, "-m", "neuron_lib.sources.fetch_worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ) as worker:
        assert worker.stdin is not None
        status = Path(f"/proc/{worker.pid}/status")
        deadline_s = time.monotonic() + 60
        while not ignored_signals(status) >= {signal.SIGHUP, signal.SIGINT}:
            assert time.monotonic() < deadline_s
            os.sched_yield()
        for number in (signal.SIGHUP, signal.SIGINT):
            worker.send_signal(number)
        worker.stdin.close()
        assert worker.wait(timeout=60) >= 0  # by the end of its input and by no signal


def ignored_signals(status: Path) -> set[signal.Signals]:
    (mask,) = (
        line.split()[1] for line in status.read_text(encoding="ascii").splitlines() if line.startswith("SigIgn:")
    )
    return {number for number in signal.Signals if int(mask, 16) >> (number - 1) & 1}
