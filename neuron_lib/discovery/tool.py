"""Runs one small command-line tool with a deadline. Knows nothing about what it prints."""

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import anyio
from anyio.abc import ByteReceiveStream
from msgspec import Struct

__all__ = ("RunTool", "ToolOutput", "run_tool")

_DEADLINE_S: Final = 5.0
_KILL_LIMIT_S: Final = 1.0


class ToolOutput(Struct, frozen=True):
    """What a tool printed. `problem` is None when it ended well, else one line saying how it did not."""

    stdout: str
    stderr: str = ""
    problem: str | None = None


RunTool: TypeAlias = Callable[[Sequence[str]], Awaitable[ToolOutput | None]]
"""Runs a command; None when there is no such tool. Never raises."""


async def run_tool(command: Sequence[str], *, deadline_s: float = _DEADLINE_S) -> ToolOutput | None:
    """Run `command` and return what it printed, or None if there is no such tool; past the deadline it is killed.

    A tool that hangs in a driver survives even that. It is left behind, because nobody must wait for it.
    """
    try:
        # A session of its own keeps an operator's Ctrl-C, meant for the service, away from the tool.
        process = await anyio.open_process(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        return ToolOutput("", problem=f"{command[0]} could not be started: {error.strerror or error}")
    stdout, stderr = bytearray(), bytearray()
    try:
        with anyio.move_on_after(deadline_s) as patience:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_read, process.stdout, stdout)
                tasks.start_soon(_read, process.stderr, stderr)
                await process.wait()
    finally:
        with anyio.move_on_after(_KILL_LIMIT_S, shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.aclose()
    if patience.cancelled_caught:
        return ToolOutput("", problem=f"{command[0]} did not end within {deadline_s:g} s and was killed")
    problem = None if process.returncode == 0 else f"{command[0]} ended with exit status {process.returncode}"
    return ToolOutput(stdout.decode(errors="replace"), stderr.decode(errors="replace"), problem)


async def _read(stream: ByteReceiveStream | None, into: bytearray) -> None:
    assert stream is not None  # piped
    async for chunk in stream:
        into += chunk
