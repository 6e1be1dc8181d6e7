"""Runs one small command-line tool with a deadline. Knows nothing about what it prints."""

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import anyio
from msgspec import Struct

__all__ = ("RunTool", "ToolOutput", "run_tool")

_DEADLINE_S: Final = 5.0


class ToolOutput(Struct, frozen=True):
    """What a tool printed. `problem` is None when it ended well, else one line saying how it did not."""

    stdout: str
    stderr: str = ""
    problem: str | None = None


RunTool: TypeAlias = Callable[[Sequence[str]], Awaitable[ToolOutput | None]]
"""Runs a command; None when there is no such tool. Never raises."""


async def run_tool(command: Sequence[str], *, deadline_s: float = _DEADLINE_S) -> ToolOutput | None:
    """Run `command` and return what it printed, or None if there is no such tool; past the deadline it is killed."""
    with anyio.move_on_after(deadline_s):
        try:
            # A session of its own keeps an operator's Ctrl-C, meant for the service, away from the tool.
            done = await anyio.run_process(command, check=False, start_new_session=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            return None
        except OSError as error:
            return ToolOutput("", problem=f"{command[0]} could not be started: {error.strerror or error}")
        problem = None if done.returncode == 0 else f"{command[0]} ended with exit status {done.returncode}"
        return ToolOutput(done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"), problem)
    return ToolOutput("", problem=f"{command[0]} did not end within {deadline_s:g} s and was killed")
