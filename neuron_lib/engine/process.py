"""What an engine is as a process among others: clean signals, a log, small crashes, an end with the daemon's."""

import contextlib
import logging
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

from neuron_lib.llama.bindings import route_logs

__all__ = ("clear_signals", "deepen_stack", "end_with_daemon", "log_to_stderr", "shield_the_daemon")

_OOM_SCORE: Final = "500"
_GGML_LEVELS: Final = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
"""libllama calls its load chatter "info"; for an operator it is debugging."""
_DAEMON_LOOK_S: Final = 1.0
_NEEDED_SIGNALS: Final = (signal.SIGABRT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPROF)
"""What shows where a thread hangs, ends a template, tells how a trial has ended, and ends a trial."""


def clear_signals() -> None:
    """Undo what this process has of its parent, any program at all: signals that it blocks or ignores."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in _NEEDED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def end_with_daemon(sock: socket.socket, daemon: int) -> NoReturn:
    """A thread's life: the daemon's death ends this process even while the main thread is inside a tokenizer.

    `daemon` is the process that started this one. Its socket does not hang up while a child that it has forked holds
    it too, so its being the parent is looked at as well.
    """
    hang_up = select.poll()
    hang_up.register(sock, 0)  # a hang-up is reported without being asked for
    while not hang_up.poll(_DAEMON_LOOK_S * 1000) and os.getppid() == daemon:
        pass
    os._exit(0)


def shield_the_daemon() -> None:
    """Make this process the one that the kernel ends when memory runs out, and keep its crashes small."""
    with contextlib.suppress(OSError):  # not on every kernel, and never worth failing for
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE, encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def deepen_stack(size_bytes: int) -> None:
    """Let the main thread's stack grow to `size_bytes` where the shell's limit is lower, as far as it may be raised.

    The kernel looks at the limit whenever a stack grows, so this holds for a thread that runs already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < size_bytes:
        wanted = size_bytes if hard == resource.RLIM_INFINITY else min(size_bytes, hard)
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def log_to_stderr() -> None:
    """One record a line, `LEVEL message`, which the daemon turns back into log records."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(levelname)s %(message)s")
    native = logging.getLogger("llama.cpp")
    line: list[str] = []
    level = logging.DEBUG

    def sink(ggml_level: int, text: str) -> None:
        # A message may come in fragments; only a line break ends it.
        nonlocal level
        level = _GGML_LEVELS.get(ggml_level, level)
        line.append(text)
        if text.endswith("\n"):
            native.log(level, "%s", "".join(line).rstrip())
            line.clear()

    route_logs(sink)
