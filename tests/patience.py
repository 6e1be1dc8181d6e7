"""How long a test waits for an event that must come.

The limits say nothing about speed: a test that passes never waits this long, a test that fails ends a little later.
"""

import os

__all__ = ("PATIENCE_S", "slowness")

PATIENCE_S = 120
"""For one event: an answer, the end of a process, a state. Below the time limit of a test, so the wait is named."""


def slowness() -> float:
    """How many times slower than an idle machine this one may be now: runnable processes for each core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
