"""A host that has no memory, no descriptors, no sane clock, or nobody who reads what is logged."""

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests.fakes.synthetic_gguf import write_synthetic
from tests.faults.cgroup import MemoryGroup, memory_group
from tests.faults.exchanges import Ending
from tests.faults.invariants import check_invariants
from tests.faults.rig import config, running_rig
from tests.faults.subject import REAL, TINY, Rig
from tests.system.daemon import eventually

pytestmark = [pytest.mark.faults, pytest.mark.system, pytest.mark.model]

DAY_S = 24 * 3600
FDS = 64
UNREAD_LINES = 500
"""More than a pipe holds."""
HOARD = """
import sys
held = []
for _ in sys.stdin:
    held.append(b"x" * (4 << 20))
    print(len(held), flush=True)
"""


# ----------------------------------------------------------------------------------------------------------- memory


class Ballast:
    """A process that takes the group's memory, a little more each time."""

    def __init__(self, group: MemoryGroup) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", HOARD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        group.add(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def grow(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("more\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline(), "the ballast itself was killed"


def test_when_the_memory_of_the_host_ends_an_engine_dies_and_not_the_daemon(tmp_path: Path) -> None:
    with memory_group("neuron-faults") as group:
        enter = ("sh", "-c", f'echo $$ > {group.folder}/cgroup.procs && exec "$@"', "sh")
        with running_rig(tmp_path, config(tmp_path, REAL, TINY), prefix=enter) as rig:
            engine = rig.engine_of(REAL)
            reply = rig.decoding()
            group.limit(group.usage_bytes + (8 << 20))
            with Ballast(group) as ballast:
                while engine in rig.daemon.engine_pids():
                    ballast.grow()
                assert reply.outcome().ending is Ending.ERROR_EVENT
                assert "SIGKILL" in reply.outcome().detail
                assert rig.answer(TINY).ending is Ending.COMPLETE
            rig.wait_recovered(REAL, dead=engine)
            check_invariants(rig)


# ------------------------------------------------------------------------------------------------------------ files


def test_a_model_file_that_is_cut_under_its_model_is_the_end_of_that_model_alone(tmp_path: Path) -> None:
    with running_rig(tmp_path, config(tmp_path, REAL, TINY)) as rig:
        os.truncate(tmp_path / "tiny.gguf", 1 << 16)
        assert rig.answer(TINY, max_tokens=900).ending is not Ending.COMPLETE
        eventually(lambda: TINY not in rig.models())
        (lost,) = rig.daemon.health()["lost"]
        assert (lost["model_id"], "3 times" in lost["error"]) == (TINY, True)
        assert "SIGBUS" in rig.daemon.log
        assert rig.load(TINY).is_client_error
        check_invariants(rig)
        write_synthetic(tmp_path / "tiny.gguf", "full")
        assert rig.load(TINY).is_success
        check_invariants(rig)


def test_without_descriptors_nobody_new_is_served_and_nobody_old_is_disturbed(tmp_path: Path) -> None:
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("there is no prlimit on this system")
    with running_rig(
        tmp_path, config(tmp_path, REAL), prefix=(prlimit, f"--nofile={FDS}:{FDS}"), rounds_per_connection=1 << 30
    ) as rig:
        reply = rig.decoding(max_tokens=120)
        with ExitStack() as held:
            for _ in range(2 * FDS):
                held.enter_context(socket.create_connection(("127.0.0.1", rig.daemon.port)))
            assert rig.load(TINY).is_error
            assert reply.outcome().ending is Ending.COMPLETE
        eventually(lambda: httpx.get(f"{rig.daemon.url}/health", trust_env=False).is_success)
        check_invariants(rig)
        assert rig.load(TINY).is_success


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
            check_invariants(rig)
    finally:
        os.close(unread)


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
        shift.write_text(str(shift_s))
        assert (
            abs(eventually(lambda: (jump := told_time(rig) - before) and abs(jump) > DAY_S / 2 and jump) - shift_s) < 60
        )
        assert 0 <= rig.daemon.health()["uptime_secs"] - uptime_s < 60
        assert rig.answer(TINY).ending is Ending.COMPLETE
        assert reply.outcome().ending is Ending.COMPLETE
        rig.load_anew(TINY)
        check_invariants(rig)


def told_time(rig: Rig) -> float:
    """What time it is, as the daemon believes."""
    return parsedate_to_datetime(rig.daemon.client.get("/health").headers["date"]).timestamp()
