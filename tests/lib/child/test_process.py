"""A child process begins and ends as its owner wants, whatever it does itself. The children are shell scripts."""

import errno
import logging
import math
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import anyio
import psutil
import pytest

from neuron_lib.child.log import ChildLog
from neuron_lib.child.process import Child, ask_by_sigterm, describe_exit, ending, start_child, watch
from neuron_lib.child.watchdog import Watchdog
from neuron_lib.logs import get_logger
from neuron_lib.os_errors import is_exhausted
from tests.fakes.cancelled_spawn import cancel_in_the_spawn
from tests.fakes.log_lines import said
from tests.fakes.model_cache import children
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.both_loops]


def sh(script: str) -> Sequence[str]:
    return ("sh", "-c", script)


@asynccontextmanager
async def running(script: str, **end: Any) -> AsyncIterator[Child]:
    """A child that has started when the block begins, and is ended like that. It is asked for nothing otherwise."""
    child = await start_child(sh(script), name="it")
    async with ending(child, **end):
        yield child


async def hear(child: Child, line: bytes = b"up\n") -> None:
    """Wait until the child has said so."""
    with anyio.fail_after(PATIENCE_S):
        assert await child.stderr.receive() == line


async def test_a_child_is_gone_when_its_block_has_ended() -> None:
    async with running("exec sleep 600") as child:
        assert children() == {child.pid}
    assert child.returncode == -signal.SIGKILL
    assert not children()


async def test_a_child_that_ends_by_itself_keeps_its_exit_status() -> None:
    async with running("exit 3") as child:
        assert await child.wait() == 3
    assert child.returncode == 3


async def test_a_wait_with_a_limit_leaves_the_child_as_it_is() -> None:
    async with running("exec sleep 600") as child:
        assert await child.wait(0) is None
        assert psutil.pid_exists(child.pid)


async def test_a_child_that_ends_when_asked_is_not_killed(caplog: pytest.LogCaptureFixture) -> None:
    script = "trap 'exit 7' TERM; echo up >&2; while :; do sleep 0.01; done"
    async with running(script, ask=ask_by_sigterm, ask_limit_s=PATIENCE_S) as child:
        await hear(child)
    assert child.returncode == 7
    assert not caplog.records


async def test_a_child_that_does_not_end_when_asked_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    async with running("trap '' TERM; echo up >&2; exec sleep 600", ask=ask_by_sigterm, ask_limit_s=0.05) as child:
        await hear(child)
    assert child.returncode == -signal.SIGKILL
    [record] = caplog.records
    assert said(record) == "it did not close, killing it"
    assert vars(record)["pid"] == child.pid


@pytest.mark.parametrize("end", ["exit 0", "wait"], ids=["one that has ended", "one that is killed"])
async def test_what_a_child_has_started_ends_with_it(end: str) -> None:
    async with running(f"sleep 600 & echo $! >&2; {end}") as child:
        started = psutil.Process(int(await child.stderr.receive()))
        if end == "exit 0":
            await child.wait()
        assert started.is_running()
        assert child.is_group_alive
    with anyio.fail_after(PATIENCE_S):
        while started.is_running() and started.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - of the kernel
            await anyio.sleep(0.01)


async def test_cancelling_the_block_ends_the_child() -> None:
    with anyio.CancelScope() as scope:
        async with running("exec sleep 600"):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not children()


async def test_cancelling_in_the_middle_of_the_spawn_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with anyio.CancelScope() as scope:
        cancel_in_the_spawn(monkeypatch, scope)
        async with running("exec sleep 600"):
            pytest.fail("nobody wants this child any more")
    assert scope.cancelled_caught
    assert not children()


@pytest.fixture
def _immortal(monkeypatch: pytest.MonkeyPatch) -> None:
    """No signal reaches a child, as if it hung in a driver."""
    for method in ("kill", "send_signal"):
        monkeypatch.setattr(Child, method, lambda *_: None)


async def really_end(child: Child) -> None:
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    await child.close()


@pytest.mark.usefixtures("_immortal")
async def test_a_child_that_cannot_be_killed_is_left_behind_and_an_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running("exec sleep 600", kill_limit_s=0) as child:
        pass
    assert child.returncode is None
    [record] = caplog.records
    assert (record.levelno, vars(record)["pid"]) == (logging.ERROR, child.pid)
    assert "it cannot be killed" in said(record)
    await really_end(child)


@pytest.mark.usefixtures("_immortal")
async def test_the_owner_of_a_child_that_cannot_be_killed_may_raise_even_when_cancelled() -> None:
    def refuse(child: Child) -> NoReturn:
        raise KeyError(child)

    with pytest.raises(KeyError) as caught, anyio.CancelScope() as scope:
        async with running("exec sleep 600", kill_limit_s=0, on_left=refuse):
            scope.cancel()
    (child,) = caught.value.args
    await really_end(child)


async def test_a_child_has_a_session_of_its_own() -> None:
    async with running("exec sleep 600") as child:
        assert os.getsid(child.pid) == child.pid


async def test_a_child_has_no_input_unless_it_is_given_some() -> None:
    async with running("read -r line; echo $? >&2") as child:
        await hear(child, b"1\n")


async def test_a_child_is_given_its_environment_and_no_other() -> None:
    environment = {"PATH": os.environ["PATH"], "ONLY": "this"}
    child = await start_child(sh("env >&2"), name="it", environment=environment)
    async with ending(child):
        seen = (await child.stderr.receive()).decode().splitlines()
    assert "ONLY=this" in seen
    assert {line.partition("=")[0] for line in seen} <= {"ONLY", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}


async def test_a_program_that_does_not_exist_is_an_error_that_stays() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        await start_child(("/nonexistent/program",), name="it")
    assert not is_exhausted(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.EAGAIN, "no process"), RuntimeError("can't start new thread")], ids=repr
)
async def test_a_host_without_means_is_an_error_that_may_pass(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def open_process(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr(anyio, "open_process", open_process)
    with pytest.raises(OSError, match=r"no process|new thread") as caught:
        await start_child(sh("true"), name="it")
    assert is_exhausted(caught.value)


async def test_another_error_of_the_start_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_process(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("a bug")

    monkeypatch.setattr(anyio, "open_process", open_process)
    with pytest.raises(RuntimeError, match="a bug"):
        await start_child(sh("true"), name="it")


async def test_a_program_that_knows_nothing_of_us_is_logged_watched_and_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a backend would keep a server of somebody else: no level in a line, one pipe for both outputs, SIGTERM."""
    caplog.set_level(logging.INFO)
    log = ChildLog(get_logger("backend"), fields={"model_id": "o/n"}, loose_level=logging.INFO)
    watchdog = Watchdog(stall_limit_s=math.inf, silence_limit_s=0.1)
    script = "trap 'echo bye; exit 0' TERM; echo listening; echo slow >&2; while :; do sleep 0.01; done"
    child = await start_child(sh(script), name="server", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    async with anyio.create_task_group() as tasks, ending(child, ask=ask_by_sigterm, ask_limit_s=PATIENCE_S):
        tasks.start_soon(log.read, child.stdout)
        with anyio.fail_after(PATIENCE_S):
            while log.last_line != "slow":  # noqa: ASYNC110 - of another process
                await anyio.sleep(0.01)
        assert (await watch(watchdog)).startswith("silent for ")  # nobody asks the server whether it is well
    assert child.returncode == 0
    assert [(record.levelname, said(record)) for record in caplog.records][:2] == [
        ("INFO", "listening"),
        ("INFO", "slow"),
    ]


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "exit status 0"),
        (7, "exit status 7"),
        (-9, "killed by SIGKILL"),
        (-60, "killed by signal 60"),
        (None, "hung up, and cannot be killed"),
    ],
)
def test_an_end_is_told_in_words(returncode: int | None, words: str) -> None:
    assert describe_exit(returncode) == words
