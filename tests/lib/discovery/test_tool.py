"""Tools that do not end when they are killed, as one in the hands of a driver that hangs."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from neuron_lib.child.process import Child
from neuron_lib.discovery.tool import ToolOutput, run_tool
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.anyio, pytest.mark.process]

TOOL = ("nvidia-smi",)
NOT_ENDED = ToolOutput("", problem="nvidia-smi was killed earlier and has not ended yet")
_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a shell script the tool."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("neuron_lib.discovery.tool._KNOWN_PLACES", ())

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


@pytest.fixture
def _first_process() -> Iterator[None]:
    """What loses its parent becomes our child, as that of process 1 in a container."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def survive(_child: Child) -> None:
    pass


def kill_the_script_alone(child: Child) -> None:
    child.send_signal(signal.SIGKILL)


def read_pid(path: Path) -> int:
    return int(path.read_text())


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - of another process, which sets no event
            await anyio.sleep(0.01)


async def answer_in_the_end() -> ToolOutput | None:
    with anyio.fail_after(PATIENCE_S):
        while (output := await run_tool(TOOL)) == NOT_ENDED:  # noqa: ASYNC110 - of another process, which sets no event
            await anyio.sleep(0.01)
    return output


async def give_up_once_it_waits(pid_path: Path, ask: Callable[[], Coroutine[Any, Any, object]]) -> int:
    """Cancel a question to a script when the process that it waits for is there; returns that one's id."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await until(lambda: pid_path.exists() and pid_path.read_text().endswith("\n"))
        tasks.cancel_scope.cancel()
    return read_pid(pid_path)


@pytest.mark.both_loops
async def test_a_tool_that_survives_is_the_only_one_and_holds_no_pipe_until_it_ends(
    install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("exec /bin/sleep 600")
    monkeypatch.setattr(Child, "kill", survive)
    us = psutil.Process()
    others, descriptors = set(us.children()), us.num_fds()
    output = await run_tool(TOOL, deadline_s=0)
    assert output == ToolOutput("", problem="nvidia-smi did not end within 0 s and was killed")
    (left,) = set(us.children()) - others
    try:
        for _ in range(3):
            assert await run_tool(TOOL) == NOT_ENDED
        assert set(us.children()) - others == {left}
        assert us.num_fds() <= descriptors + 1  # by which the loop may hear of its end
    finally:
        left.kill()
    install("echo fine")
    assert await answer_in_the_end() == ToolOutput("fine\n")
    assert not left.is_running()  # nor a zombie
    assert us.num_fds() <= descriptors  # fewer, if the garbage collector has closed what tests before this one left


async def test_a_tool_that_survives_keeps_no_other_tool_from_running(
    install: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("exec /bin/sleep 600")
    monkeypatch.setattr(Child, "kill", survive)
    (tmp_path / "nvcc").write_text("#!/bin/sh\necho 12.4\n")
    (tmp_path / "nvcc").chmod(0o755)
    us = psutil.Process()
    others = set(us.children())
    await run_tool(TOOL, deadline_s=0)
    (left,) = set(us.children()) - others
    try:
        assert await run_tool(("nvcc",)) == ToolOutput("12.4\n")
    finally:
        left.kill()
    install("echo fine")
    await answer_in_the_end()


@pytest.mark.both_loops
async def test_what_a_script_has_started_is_killed_with_it(install: Callable[[str], None], tmp_path: Path) -> None:
    install(f"/bin/sleep 600 & echo $! > {tmp_path}/pid; wait")
    started = await give_up_once_it_waits(tmp_path / "pid", partial(run_tool, TOOL, deadline_s=600))
    try:
        await until(lambda: is_gone(started))
    finally:
        end(started)


@pytest.mark.usefixtures("_first_process")
async def test_a_script_counts_as_alive_while_what_it_started_is(
    install: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(f"/bin/sleep 600 & echo $! > {tmp_path}/pid; wait")
    monkeypatch.setattr(Child, "kill", kill_the_script_alone)
    ask = partial(run_tool, TOOL, deadline_s=600)
    started = await give_up_once_it_waits(tmp_path / "pid", ask)
    try:
        install("echo fine")
        assert await run_tool(TOOL) == NOT_ENDED
    finally:
        end(started)
    assert await answer_in_the_end() == ToolOutput("fine\n")


async def test_a_tool_that_is_not_on_the_path_is_found_where_its_vendor_puts_it(
    install: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "opt"
    place.mkdir()
    monkeypatch.setattr("neuron_lib.discovery.tool._KNOWN_PLACES", (str(place),))
    assert await run_tool(TOOL) is None
    install("echo of the vendor")
    (tmp_path / "nvidia-smi").rename(place / "nvidia-smi")
    assert await run_tool(TOOL) == ToolOutput("of the vendor\n")
    install("echo of the path")
    assert await run_tool(TOOL) == ToolOutput("of the path\n")


async def test_a_tool_that_leaves_a_child_behind_is_not_waited_for_any_longer(
    install: Callable[[str], None], tmp_path: Path
) -> None:
    install(f"/bin/sleep 600 & echo $! > {tmp_path}/pid; echo fine")
    output = await run_tool(TOOL, deadline_s=PATIENCE_S)
    end(read_pid(tmp_path / "pid"))
    assert output == ToolOutput("fine\n")
