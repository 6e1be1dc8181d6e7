"""Runs inside a child process: the child ends with its parent, and leaves the signals of a terminal to its parent.

There are two ways to notice the end of the parent. A child of ours uses both.

A thread of the child waits for the end of the parent (`end_without_parent`). This works for every parent. It does not
work in a child that is stopped (SIGSTOP), and it works late in a child that holds the interpreter lock.

The kernel kills the child (`end_with_parent`). This works for every child, but the kernel looks at the *thread* that
started the child and not at the process. So the parent asks for it, with `--parent`, only if that thread lives as long
as the parent does.

Other programs have neither of these. For them this file can be run as a script: it asks the kernel and then becomes
the other program (`bound_to_parent`). The kernel ends that program alone. With a link to the parent the script also
leaves a watcher in the program's group, which ends the whole group, and all that the group has started, when the parent
is gone. The file imports the standard library alone, so the script needs no package.
"""

import argparse
import ctypes
import os
import select
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

__all__ = (
    "add_parent_option",
    "bound_to_parent",
    "end_with_parent",
    "end_without_parent",
    "kill_marked",
    "leave_signals_to_parent",
    "main",
    "parent_option",
)

_PR_SET_PDEATHSIG: Final = 1
_LOOK_S: Final = 1.0
"""Seconds between two looks at the id of the parent. A closed link is noticed at once."""


def parent_option(*, ends_with_thread: bool) -> tuple[str, ...]:
    """The arguments to append to a child's command line. Called by the parent.

    With `ends_with_thread` the kernel kills the child when the calling thread ends.
    """
    return ("--parent", str(os.getpid())) if ends_with_thread else ()


def add_parent_option(parser: argparse.ArgumentParser) -> None:
    """Let the program of a child take `--parent`: the process id to give to `end_with_parent`, or None."""
    parser.add_argument("--parent", type=int, help="pid of the daemon, if the thread that starts this lives as long")


def bound_to_parent(command: Sequence[str], *, ends_with_thread: bool, mark: str = "") -> tuple[str, ...]:
    """The command line that runs another program. Called by the parent.

    With `ends_with_thread` the kernel kills the program when the calling thread ends, but not the processes that the
    program has started. With a `mark`, the stdin of the process must be a pipe of the parent: all processes of its
    group, and those that have the mark in their environment, are killed when the other end of the pipe is closed. The
    program itself gets an empty stdin. Without both, nothing ends a program whose parent was killed.
    """
    if not ends_with_thread and not mark:
        return tuple(command)
    options = (*parent_option(ends_with_thread=ends_with_thread), *(("--mark", mark) if mark else ()))
    return (sys.executable, "-I", "-S", __file__, *options, "--", *command)


def end_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when the thread that started it ends. Does nothing if `parent` is None.

    `parent` is the process id of that thread's process. If that process has ended already, this process exits here.
    """
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os._exit(0)


def end_without_parent(parent: int, link: int) -> NoReturn:
    """Exit with status 0 when the parent has ended. Runs in a thread of its own, and ends the process from there.

    `parent` is the parent's process id. `link` is a descriptor, a pipe or a socket, whose other end the parent holds.
    When the other end is closed, the process exits at once. That is not enough: a process that the parent has forked
    may hold the other end too. So the process exits within a second also when it has got another parent.
    """
    hang_up = select.poll()
    hang_up.register(link, 0)  # 0: report no data; a hang-up is always reported
    while not hang_up.poll(_LOOK_S * 1000) and os.getppid() == parent:
        pass
    os._exit(0)


def leave_signals_to_parent() -> None:
    """Ignore SIGHUP and SIGINT, which a terminal or a service manager sends to all processes of a service at once.

    The parent decides what these signals mean, and ends this process when the time has come.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def kill_marked(mark: str, *, proc: Path = Path("/proc")) -> int:
    """Kill every process with `mark`, which is `NAME=value`, in the environment that it was started with.

    So also those are found that have left the group of the process that has started them. Returns their number.
    Processes of other users cannot be read and are left alone. Blocking.
    """
    wanted, killed = mark.encode(), 0
    for folder in proc.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
    return killed


def _leave_watcher(mark: str) -> None:
    """Start the watcher, which holds the link to the parent. It is no child of the program, which may count its own."""
    link = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if (between := os.fork()) == 0:
        if os.fork() == 0:
            _watch(link, null, mark)
        os._exit(0)
    os.waitpid(between, 0)
    os.close(link)
    os.close(null)


def _watch(link: int, null: int, mark: str) -> NoReturn:
    """Wait for the end of the parent, then kill the group, this process included."""
    for output in (1, 2):  # the parent takes the end of these for the end of the program
        os.dup2(null, output)
    leave_signals_to_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang_up = select.poll()
    hang_up.register(link, 0)
    while not hang_up.poll():
        pass
    kill_marked(mark)
    os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main() -> None:
    """Become the program of the command line, which the kernel then kills with its parent."""
    parser = argparse.ArgumentParser(description="runs a program that ends with its parent")
    add_parent_option(parser)
    parser.add_argument("--mark", help="leave a watcher, which ends all processes with this in their environment")
    parser.add_argument("command", nargs="+", help="the program and its arguments")
    options = parser.parse_args()
    end_with_parent(options.parent)
    if options.mark:
        _leave_watcher(options.mark)
    try:
        os.execvp(options.command[0], options.command)  # noqa: S606 - the operator's own command
    except OSError as error:
        sys.exit(f"{options.command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
