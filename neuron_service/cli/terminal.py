"""Errors of a command, on stderr."""

import os
import sys

from neuron_service.journal import ERROR_PRIORITY, is_journal, with_priority

__all__ = ("complain",)


def complain(text: str) -> None:
    """Print an error as one line on stderr, with a priority if the journal reads it."""
    line = f"neuron: {text}"
    if is_journal(sys.stderr, os.environ):
        line = with_priority(line, ERROR_PRIORITY)
    print(f"{line}\n", end="", file=sys.stderr)  # in one write, so that a log record cannot come before the line's end
