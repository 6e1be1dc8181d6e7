"""What all commands have in common when they talk to a person: errors on stderr, interrupts, colours."""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Final

from neuron_service.journal import ERROR_PRIORITY, is_journal, with_priority

__all__ = ("INTERRUPTED", "complain", "wants_colours")

INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit status of a command that Ctrl-C has ended, as shells have it."""


def complain(text: str) -> None:
    """Print an error as one line on stderr, with a priority if the journal reads it."""
    line = f"neuron: {text}"
    if is_journal(sys.stderr, os.environ):
        line = with_priority(line, ERROR_PRIORITY)
    print(f"{line}\n", end="", file=sys.stderr)  # in one write, so that a log record cannot come before the line's end


def wants_colours(environ: Mapping[str, str]) -> bool:
    """Whether colours and styles may be written to a terminal."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
