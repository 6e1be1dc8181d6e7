"""Runs one small command-line tool with a deadline. Knows nothing about what it prints."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import IO, Final, TypeAlias

import anyio
from anyio.abc import Process
from anyio.lowlevel import RunVar
from msgspec import Struct

__all__ = ("RunTool", "ToolOutput", "run_tool")

_DEADLINE_S: Final = 5.0
_KILL_LIMIT_S: Final = 1.0
_LONGEST_OUTPUT_BYTES: Final = 1 << 20

_killed: Final[RunVar[list[tuple[str, Process]]]] = RunVar("killed")
"""Tools of this event loop that were killed and may live on: in a driver that hangs no signal reaches them."""


class ToolOutput(Struct, frozen=True):
    """What a tool printed. `problem` is None when it ended well, else one line saying how it did not."""

    stdout: str
    stderr: str = ""
    problem: str | None = None


RunTool: TypeAlias = Callable[[Sequence[str]], Awaitable[ToolOutput | None]]
"""Runs a command; None when there is no such tool. Never raises."""


def _kill_group(group: int) -> None:
    """Kill all processes of a group, since what is called nvidia-smi may be a script that waits for the real one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


async def run_tool(
    command: Sequence[str], *, deadline_s: float = _DEADLINE_S, kill: Callable[[int], None] = _kill_group
) -> ToolOutput | None:
    """Run `command` and return what it printed, or None if there is no such tool; past the deadline it is killed.

    A tool that hangs in a driver survives even that. It is left behind, because nobody must wait for it, and until it
    has ended the same tool is not started again: each would stay as well.
    """
    tool = command[0]
    killed = _still_alive()
    if any(name == tool for name, _ in killed):
        return ToolOutput("", problem=f"{tool} was killed earlier and has not ended yet")
    try:
        # Files and no pipes: of these nothing stays open, whoever lives on with the other end.
        with _memory_file("stdout") as stdout, _memory_file("stderr") as stderr:
            # A session of its own keeps an operator's Ctrl-C, meant for the service, away from the tool.
            process = await anyio.open_process(
                command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True
            )
            try:
                with anyio.move_on_after(deadline_s) as patience:
                    await process.wait()
            finally:
                if process.returncode is None:
                    killed.append((tool, process))
                    kill(process.pid)
                    with anyio.move_on_after(_KILL_LIMIT_S, shield=True):
                        await process.wait()
            if patience.cancelled_caught:
                return ToolOutput("", problem=f"{tool} did not end within {deadline_s:g} s and was killed")
            problem = None if process.returncode == 0 else f"{tool} ended with exit status {process.returncode}"
            return ToolOutput(_text(stdout), _text(stderr), problem)
    except FileNotFoundError:
        return None
    except OSError as error:
        return ToolOutput("", problem=f"{tool} could not be started: {error.strerror or error}")


def _memory_file(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(name), "rb")


def _text(file: IO[bytes]) -> str:
    """What was written to a file; its position is the writer's as well, so it is not touched."""
    return os.pread(file.fileno(), _LONGEST_OUTPUT_BYTES, 0).decode(errors="replace")


def _still_alive() -> list[tuple[str, Process]]:
    """The tools of `_killed` that have not ended, after the others have left it."""
    try:
        killed = _killed.get()
    except LookupError:
        killed = []
        _killed.set(killed)
    killed[:] = [(tool, process) for tool, process in killed if _is_alive(process)]
    return killed


def _is_alive(process: Process) -> bool:
    """Whether any process of its group is; those that are its own and have ended are reaped by the look."""
    if process.returncode is None:
        return True
    try:
        # As process 1 of a container we inherit what the tool had started.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-process.pid, os.WNOHANG)
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a helper that runs as root, such as nvidia-modprobe
    return True
