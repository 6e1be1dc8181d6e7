"""The start of an engine process: its signals, limits and log. `child.parent_death` ends it with the daemon."""

import contextlib
import logging
import resource
import signal
import sys
from pathlib import Path
from typing import Final

from neuron_lib.child.lines import ChildFormatter
from neuron_lib.llama.bindings import route_logs

__all__ = ("clear_signals", "deepen_stack", "log_to_stderr", "shield_the_daemon")

_OOM_SCORE: Final = "500"
_GGML_LEVELS: Final = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
"""libllama's level "info" has many lines about each load. They are for debugging."""
_NEEDED_SIGNALS: Final = (signal.SIGABRT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPROF)
"""SIGABRT shows where a thread hangs. SIGALRM ends a template. SIGCHLD tells that the trial of a grammar has ended.
SIGPROF ends a trial that takes too much processor time.
"""


def clear_signals() -> None:
    """Undo what this process inherited from its parent, which may be any program: blocked and ignored signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in _NEEDED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def shield_the_daemon() -> None:
    """Let the kernel end this process before the daemon when memory runs out, and write no core dumps."""
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
    """Write each record as a line (`child.lines`). The daemon makes log records of the lines (`child.log`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ChildFormatter())
    logging.basicConfig(level=logging.DEBUG, handlers=[handler])
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
