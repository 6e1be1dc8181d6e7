"""Measures how late the event loop runs what is due: everything that blocks the loop shows here."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from neuron_lib.tally import Tally

__all__ = ("measure_lag",)

_PAUSE_S: Final = 0.25


async def measure_lag(
    lag_s: Tally,
    *,
    sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
    clock: Callable[[], float] = anyio.current_time,
) -> None:
    """Add to `lag_s`, four times a second and until cancelled, by how many seconds a sleep ended too late."""
    while True:
        due_s = clock() + _PAUSE_S
        await sleep(_PAUSE_S)
        lag_s.add(max(0.0, clock() - due_s))
