"""A host that has no memory, no descriptors, no sane clock, or nobody who reads what is logged."""

import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from tests.fakes.synthetic_gguf import write_synthetic
from tests.faults.cgroup import MemoryGroup, memory_group
from tests.faults.engine_faults import held
from tests.faults.exchanges import Ending
from tests.faults.invariants import check_invariants
from tests.faults.rig import TINY_FILE, config, running_rig
from tests.faults.subject import REAL, TINY, TINY_TOO, Rig
from tests.system.daemon import eventually, free_port

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

DAY_S = 24 * 3600
FDS = 64
UNREAD_LINES = 500
"""More than a pipe holds."""
GROUP_BYTES = 32 << 20
HOARD = "import sys; sys.stdin.read(); b'x' * int(sys.argv[1])"


# ----------------------------------------------------------------------------------------------------------- memory


@contextmanager
def hoarder(group: MemoryGroup) -> Iterator[None]:
    """A process of the group that takes more memory than the group has."""
    with subprocess.Popen([sys.executable, "-c", HOARD, str(2 * GROUP_BYTES)], stdin=subprocess.PIPE) as process:
        try:
            group.add(process.pid)
            assert process.stdin is not None
            process.stdin.close()  # now it begins
            yield
        finally:
            process.kill()


def test_an_engine_that_the_kernel_kills_for_its_memory_is_started_again(tmp_path: Path) -> None:
    with memory_group("neuron-faults") as group, running_rig(tmp_path, config(tmp_path, REAL, TINY)) as rig:
        engine = rig.engine_of(REAL)
        assert oom_score(engine) > oom_score(rig.pid)  # with both in one group, it would not be the daemon
        reply = rig.decoding()
        group.add(engine)
        group.limit(GROUP_BYTES)
        with hoarder(group):
            outcome = reply.outcome()
        assert (outcome.ending, "SIGKILL" in outcome.detail) == (Ending.ERROR_EVENT, True)
        assert rig.answer(TINY).ending is Ending.COMPLETE
        rig.wait_recovered(REAL, dead=engine)
        check_invariants(rig)


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


# ------------------------------------------------------------------------------------------------------------ files


def test_a_model_file_that_is_cut_under_its_model_is_the_end_of_that_model_alone(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL, TINY_TOO)) as rig:
        os.truncate(tmp_path / TINY_FILE, 1 << 16)
        assert rig.answer(TINY_TOO, max_tokens=900).ending is not Ending.COMPLETE
        eventually(lambda: TINY_TOO not in rig.models())
        (lost,) = rig.daemon.health()["lost"]
        assert (lost["model_id"], "3 times" in lost["error"]) == (TINY_TOO, True)
        assert "SIGBUS" in rig.daemon.log
        assert rig.load(TINY_TOO).is_client_error
        check_invariants(rig)
        write_synthetic(tmp_path / TINY_FILE, "full")
        assert rig.load(TINY_TOO).is_success
        check_invariants(rig)


def test_without_descriptors_nobody_new_is_served_and_nobody_old_is_disturbed(tmp_path: Path) -> None:
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("there is no prlimit on this system")
    with running_rig(
        tmp_path, config(tmp_path, REAL), prefix=(prlimit, f"--nofile={FDS}:{FDS}"), rounds_per_connection=1 << 30
    ) as rig:
        reply = rig.decoding(max_tokens=120)
        with ExitStack() as crowded:
            with held(rig.engine_of(REAL)):
                crowd = [
                    crowded.enter_context(socket.create_connection(("127.0.0.1", rig.daemon.port)))
                    for _ in range(2 * FDS)
                ]
                eventually(lambda: any(map(is_turned_away, crowd)))
                eventually(lambda: "too many connections" in rig.daemon.log)  # and not for their silence
                assert not reply.is_over
            rig.load(TINY)  # whether there is room for that is not promised, only that it ends
            assert reply.outcome().ending is Ending.COMPLETE
        eventually(lambda: httpx.get(f"{rig.daemon.url}/health", trust_env=False).is_success)
        rig.load_anew(TINY)
        assert rig.unload(TINY).is_success
        check_invariants(rig)


def is_turned_away(connection: socket.socket) -> bool:
    """Whether the daemon has closed the connection, or answered it unasked."""
    try:
        connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_nobody_reads_the_log_and_nobody_waits_for_that(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    unread = os.open(pipe, os.O_RDWR)
    try:
        with running_rig(
            tmp_path / "daemon", config(tmp_path / "daemon", TINY), prefix=("sh", "-c", f'exec "$@" 2>{pipe}', "sh")
        ) as rig:
            while len(rig.exchanges) < UNREAD_LINES:
                crowd = [rig.ask("no/such", stream=False) for _ in range(100)]
                assert {exchange.outcome().status for exchange in crowd} == {404}
            assert rig.answer(TINY).ending is Ending.COMPLETE
            assert is_full(unread)
            check_invariants(rig)
    finally:
        os.close(unread)


def test_nobody_has_ever_read_what_the_daemon_prints_and_it_serves_and_ends_all_the_same(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    unread = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while True:
                os.write(unread, bytes(1 << 12))  # no more than a page, so that not a byte of room is left
        with running_rig(
            tmp_path / "daemon",
            config(tmp_path / "daemon", TINY),
            prefix=("sh", "-c", f'exec "$@" >{pipe} 2>&1', "sh"),
            port=free_port(),
        ) as rig:
            assert rig.answer(TINY).ending is Ending.COMPLETE
            assert is_full(unread)
            check_invariants(rig)
    finally:
        os.close(unread)


def is_full(pipe: int) -> bool:
    """Whether a writer would wait."""
    _, writable, _ = select.select([], [pipe], [], 0)
    return not writable


# ------------------------------------------------------------------------------------------------------------ clock


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    """A library that moves the wall clock of the process that it is preloaded into."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler on this system")
    library = tmp_path / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    return library


@pytest.mark.parametrize("shift_s", [DAY_S, -DAY_S], ids=["forward", "back"])
def test_a_wall_clock_that_jumps_by_a_day_ends_nothing(tmp_path: Path, shim: Path, shift_s: int) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0")
    environ = {"LD_PRELOAD": str(shim), "SHIFT_FILE": str(shift)}
    with running_rig(tmp_path, config(tmp_path, REAL, TINY), environ=environ) as rig:
        reply = rig.decoding(max_tokens=100)
        before = told_time(rig)
        uptime_s = rig.daemon.health()["uptime_secs"]
        with held(rig.engine_of(REAL)):
            shift.write_text(str(shift_s))
            jump_s = eventually(lambda: (jump_s := told_time(rig) - before) and abs(jump_s) > DAY_S / 2 and jump_s)
            assert not reply.is_over
        assert abs(jump_s - shift_s) < 60
        assert 0 <= rig.daemon.health()["uptime_secs"] - uptime_s < 60
        assert rig.answer(TINY).ending is Ending.COMPLETE
        assert reply.outcome().ending is Ending.COMPLETE
        rig.load_anew(TINY)
        check_invariants(rig)


def told_time(rig: Rig) -> float:
    """What time it is, as the daemon believes."""
    return parsedate_to_datetime(rig.daemon.client.get("/health").headers["date"]).timestamp()
