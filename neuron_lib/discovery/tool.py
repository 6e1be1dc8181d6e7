"""Runs one small command-line tool with a deadline. Knows nothing about what it prints."""

import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from typing import IO, Final, TypeAlias

from anyio.lowlevel import RunVar, checkpoint_if_cancelled
from msgspec import Struct

from neuron_lib.child.process import Child, start_child

__all__ = ("RunTool", "ToolOutput", "run_tool")

_DEADLINE_S: Final = 5.0
_KILL_LIMIT_S: Final = 1.0
_LONGEST_OUTPUT_BYTES: Final = 1 << 20
_KNOWN_PLACES: Final = ("/opt/rocm/bin", "/usr/local/cuda/bin", "/usr/lib/wsl/lib")
"""Where vendors put their tools. These directories are not on the path that systemd gives to a service."""

_killed: Final[RunVar[list[Child]]] = RunVar("killed")
"""Tools of this event loop that were killed and may still run: no signal reaches a tool that hangs in a driver."""


class ToolOutput(Struct, frozen=True):
    """What a tool printed. `problem` is None when the tool ended well, else one line that says how it did not."""

    stdout: str
    stderr: str = ""
    problem: str | None = None


RunTool: TypeAlias = Callable[[Sequence[str]], Awaitable[ToolOutput | None]]
"""Runs a command; None when there is no such tool. Never raises."""


async def run_tool(command: Sequence[str], *, deadline_s: float = _DEADLINE_S) -> ToolOutput | None:
    """Run `command` and return what it printed, or None if there is no such tool; past the deadline it is killed.

    A tool is also found where its vendor puts it, after the directories of the path.
    A tool that hangs in a driver survives the kill. It is left behind, because nobody can wait for it. Until it has
    ended, the same tool is not started again: each of them would stay as well.
    """
    tool = command[0]
    killed = _still_alive()
    if any(child.name == tool for child in killed):
        return ToolOutput("", problem=f"{tool} was killed earlier and has not ended yet")
    try:
        # Files and no pipes: a tool that is left behind keeps no descriptor of ours open.
        with _memory_file("stdout") as stdout, _memory_file("stderr") as stderr:
            child = await start_child(_located(command), name=tool, stdout=stdout, stderr=stderr)
            try:
                await checkpoint_if_cancelled()
                returncode = await child.wait(deadline_s)
            finally:
                if child.returncode is None:
                    killed.append(child)
                    await child.end(kill_limit_s=_KILL_LIMIT_S)
            if returncode is None:
                return ToolOutput("", problem=f"{tool} did not end within {deadline_s:g} s and was killed")
            problem = None if returncode == 0 else f"{tool} ended with exit status {returncode}"
            return ToolOutput(_text(stdout), _text(stderr), problem)
    except FileNotFoundError:
        return None
    except OSError as error:
        return ToolOutput("", problem=f"{tool} could not be started: {error.strerror or error}")


def _located(command: Sequence[str]) -> Sequence[str]:
    """The command with the path of its tool if only a vendor's directory has it."""
    if shutil.which(command[0]) is None and (place := shutil.which(command[0], path=":".join(_KNOWN_PLACES))):
        return (place, *command[1:])
    return command


def _memory_file(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(name), "rb")


def _text(file: IO[bytes]) -> str:
    """The text that the tool has written to a file. The file's position belongs to the tool, so it is not moved."""
    return os.pread(file.fileno(), _LONGEST_OUTPUT_BYTES, 0).decode(errors="replace")


def _still_alive() -> list[Child]:
    """The tools of `_killed` that run, with all that they have started. The others leave the list."""
    try:
        killed = _killed.get()
    except LookupError:
        killed = []
        _killed.set(killed)
    killed[:] = [child for child in killed if child.is_group_alive]
    return killed
