"""Starts a child process, waits for it, and makes sure that it ends.

A child gets a session of its own. So a Ctrl-C in the daemon's terminal reaches only the daemon, which ends its children
later. A kill reaches the whole group of the child: all processes that the child has started.
"""

import errno
import math
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final, TypeAlias

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.lowlevel import checkpoint_if_cancelled

from neuron_lib.child.watchdog import Watchdog
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.os_errors import is_exhausted

__all__ = ("Child", "ask_by_sigterm", "describe_exit", "ending", "start_child", "watch")

logger: FieldLogger = get_logger(__name__)

_KILL_LIMIT_S: Final = 10.0

Output: TypeAlias = int | IO[bytes]
"""Where an output goes: `subprocess.PIPE`, `subprocess.DEVNULL`, `subprocess.STDOUT` or an open file."""


class Child:
    """A process that this one has started. `name` is what log lines call the process.

    Lives from `start_child` until `end`. `end` must be called even if the process has ended by itself; a block with
    `ending` does this. All methods are for the event loop that started the process.
    """

    def __init__(self, process: Process, name: str) -> None:
        self.name: Final = name
        self._process: Final = process

    def __repr__(self) -> str:
        state = "runs" if self.returncode is None else describe_exit(self.returncode)
        return f"<Child {self.pid} {self.name}: {state}>"

    @property
    def pid(self) -> int:
        """The process id, which is also the number of its group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status as of `subprocess`, negative for a signal; None until the process has been reaped."""
        return self._process.returncode

    @property
    def stdin(self) -> ByteSendStream:
        """Only for a child that was started with `stdin=PIPE`."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Only for a child that was started with `stdout=PIPE`."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        """Only for a child that was started with `stderr=PIPE`."""
        assert self._process.stderr is not None
        return self._process.stderr

    async def wait(self, limit_s: float = math.inf) -> int | None:
        """Wait until the process has ended. Returns `returncode`, or None if the process still runs after `limit_s`.

        Cancelling the wait leaves the process as it is.
        """
        with anyio.move_on_after(limit_s):
            await self._process.wait()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone. Does nothing if the process has ended.

        The methods of the event loops may reap the process. This method does not, so that `wait` gets the exit status.
        """
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to all processes of the group. A program may be a script that waits for the real program.

        Call it while the process runs, or at once after its end. Some time after the last member has ended, the system
        gives the number of the group to another process.
        """
        with suppress(ProcessLookupError, PermissionError):  # the group is empty, or has only helpers that run as root
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def is_group_alive(self) -> bool:
        """Whether any process of the group runs. Reaps members that have ended and are children of this process."""
        if self.returncode is None:
            return True
        try:
            # As process 1 of a container, this process becomes the parent of what the child had started.
            with suppress(ChildProcessError):
                os.waitpid(-self.pid, os.WNOHANG)
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # a helper that runs as root, such as nvidia-modprobe
        return True

    async def end(
        self,
        *,
        ask: Callable[["Child"], Awaitable[object]] | None = None,
        ask_limit_s: float = 0.0,
        kill_limit_s: float = _KILL_LIMIT_S,
    ) -> bool:
        """End the process: ask, then kill. Returns whether the process is gone. Its memory is back then.

        `ask` tells the process to end by itself, for which it has `ask_limit_s`. After that the whole group is killed,
        also if only processes are left that the child had started. A process that still runs `kill_limit_s` later hangs
        in the kernel. No signal reaches it, so it is left behind. A cancellation of the caller waits until `end` is
        done.
        """
        with anyio.CancelScope(shield=True):
            if ask is not None and self.returncode is None:
                with anyio.move_on_after(ask_limit_s):
                    await ask(self)
                    await self._process.wait()
                if self.returncode is None:
                    logger.warning("%s did not close, killing it", self.name, extra={"pid": self.pid})
            self.kill()
            is_gone = await self.wait(kill_limit_s) is not None
            await self.close()
        return is_gone

    async def close(self) -> None:
        """Close our ends of the pipes. Part of `end`."""
        if self.returncode is not None:
            await self._process.aclose()
            return
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                await stream.aclose()


async def start_child(
    command: Sequence[str],
    *,
    name: str,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: Output = subprocess.DEVNULL,
    stderr: Output = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
    directory: Path | None = None,
) -> Child:
    """Start a process; the caller has to end it (`ending`). `environment` None is the one of this process, and so is
    `directory` None.

    Raises `OSError` for a process that cannot be started; `is_exhausted` says whether that may pass. A cancellation
    during the start takes effect at the caller's next checkpoint, so that the caller always gets the process.
    """
    try:
        with anyio.CancelScope(shield=True):
            process = await anyio.open_process(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
                pass_fds=pass_fds,
                cwd=directory,
            )
    except RuntimeError as error:  # trio starts a process from a thread
        if is_exhausted(error):
            raise OSError(errno.EAGAIN, str(error)) from error
        raise
    return Child(process, name)


@asynccontextmanager
async def ending(
    child: Child,
    *,
    ask: Callable[[Child], Awaitable[object]] | None = None,
    ask_limit_s: float = 0.0,
    kill_limit_s: float = _KILL_LIMIT_S,
    on_left: Callable[[Child], object] | None = None,
) -> AsyncIterator[None]:
    """End the child (`Child.end`) at the end of the block, however the block ends.

    Enter the block right after `start_child`, without a checkpoint in between. For a process that cannot be killed,
    `on_left` is called, which may raise; without `on_left` an error is logged.
    """
    try:
        await checkpoint_if_cancelled()
        yield
    finally:
        if not await child.end(ask=ask, ask_limit_s=ask_limit_s, kill_limit_s=kill_limit_s):
            (on_left or _log_left)(child)


async def ask_by_sigterm(child: Child) -> None:
    """An `ask` for programs that end on SIGTERM, as servers do."""
    child.send_signal(signal.SIGTERM)


async def watch(watchdog: Watchdog) -> str:
    """Call `watchdog.look` again and again until it has a verdict, and return the verdict.

    The task that reads from the child tells the watchdog of its signs.
    """
    while (verdict := watchdog.verdict) is None:
        await anyio.sleep(watchdog.look_s)
        watchdog.look()
    return verdict


def describe_exit(returncode: int | None) -> str:
    """How a process with this `returncode` has ended. None: it closed its pipes and still runs."""
    if returncode is None:
        return "hung up, and cannot be killed"
    if returncode >= 0:
        return f"exit status {returncode}"
    names = {number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(-returncode, f'signal {-returncode}')}"


def _log_left(child: Child) -> None:
    extra = {"pid": child.pid}
    logger.error("%s cannot be killed and is left behind; it hangs in a driver or a disk", child.name, extra=extra)
