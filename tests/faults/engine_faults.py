"""What can happen to an engine process, done to a real one at any moment of its life."""

import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import psutil
import pytest

from tests.system.daemon import eventually, hold, let_go

__all__ = ("EngineFault", "held", "inflict")

PIDFD_GETFD = 438
"""The system call's number on every architecture."""
NO_FRAME = b"\x05\x00\x00\x00hello"


class EngineFault(StrEnum):
    """How an engine goes wrong."""

    SEGV = "SIGSEGV"
    ABRT = "SIGABRT"
    KILL = "SIGKILL"
    STOP = "SIGSTOP"
    EXIT_0 = "exit 0"
    GARBAGE = "garbage frames"
    HANG_UP = "hang up"

    @property
    def epitaph(self) -> str:
        """What the daemon says of a sudden death that came of it."""
        return EPITAPHS[self]


EPITAPHS = {
    EngineFault.SEGV: "killed by SIGSEGV",
    EngineFault.ABRT: "killed by SIGABRT",
    EngineFault.KILL: "killed by SIGKILL",
    EngineFault.EXIT_0: "exit status 0",
    EngineFault.GARBAGE: "does not decode",
    EngineFault.HANG_UP: "killed by SIGKILL",  # by the daemon: nobody else sends it
}


def inflict(fault: EngineFault, pid: int) -> None:
    """Do it to the engine `pid`. Skips the test where nobody may reach into another process."""
    match fault:
        case EngineFault.EXIT_0:
            with borrowed_socket(pid) as sock:
                sock.shutdown(socket.SHUT_RD)  # what it sees when the daemon is gone, upon which it exits with 0
        case EngineFault.GARBAGE:
            with borrowed_socket(pid) as sock:
                sock.sendall(NO_FRAME)
        case EngineFault.HANG_UP:
            with borrowed_socket(pid) as sock:
                hold(pid)  # one that can still run finds that it cannot send, and exits with 0
                eventually(lambda: stands_still(pid))
                sock.shutdown(socket.SHUT_WR)
        case _:
            os.kill(pid, signal.Signals[fault])


@contextmanager
def held(pid: int) -> Iterator[None]:
    """The engine does nothing during the block, so whatever it was doing is not over yet."""
    hold(pid)
    try:
        yield
    finally:
        let_go(pid)


def stands_still(pid: int) -> bool:
    """Whether a signal has stopped every thread."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all("State:\tT" in (thread / "status").read_text() for thread in threads)


@contextmanager
def borrowed_socket(pid: int) -> Iterator[socket.socket]:
    """The engine's own end of the connection to its daemon, shared with us for a moment."""
    command = psutil.Process(pid).cmdline()
    number = int(command[command.index("--fd") + 1])
    process = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        borrowed = libc.syscall(PIDFD_GETFD, process, number, 0)
    finally:
        os.close(process)
    if borrowed < 0:
        pytest.skip(f"the socket of another process cannot be had here: {os.strerror(ctypes.get_errno())}")
    with socket.socket(fileno=borrowed) as sock:
        yield sock
