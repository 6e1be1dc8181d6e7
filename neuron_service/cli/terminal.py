"""What all commands have in common when they talk to a person: errors on stderr, interrupts, colours."""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Final, TextIO

from neuron_lib.shown import printable
from neuron_service.journal import ERROR_PRIORITY, is_journal, with_priority

__all__ = ("INTERRUPTED", "complain", "drop_the_rest", "wants_colours")

INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C has ended, as shells have it."""


def complain(text: str) -> None:
    """Print an error as one line on stderr, with a priority if the journal reads it.

    Characters that steer a terminal are spelled out, because the text may quote a file or a daemon.
    """
    line = f"neuron: {printable(text)}"
    if is_journal(sys.stderr, os.environ):
        line = with_priority(line, ERROR_PRIORITY)
    try:
        # In one write, so that a log record cannot come before the line's end.
        print(f"{line}\n", end="", file=sys.stderr, flush=True)
    except OSError:
        drop_the_rest(sys.stderr)


def drop_the_rest(stream: TextIO) -> None:
    """Send what a stream still holds to /dev/null. The interpreter writes it at its end, which must not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def wants_colours(environ: Mapping[str, str]) -> bool:
    """Whether colours and styles may be written to a terminal."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
