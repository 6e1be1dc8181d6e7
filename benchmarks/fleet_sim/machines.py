"""The tables of step times that the studies use: measured ones from `step_times/`, and assumed ones. Pure."""

from pathlib import Path
from typing import Final

import msgspec

from benchmarks.fleet_sim.step_times import StepTimes, roofline

__all__ = ("CARD_8B", "SERVER_70B", "table")

_FOLDER: Final = Path(__file__).with_name("tables")

CARD_8B: Final = roofline(
    "card-8b",
    weights_gb=8.5,
    cell_bytes=128 << 10,
    memory_gb_s=650,
    prefill_tok_s=5000,
    sequence_ms=0.1,
    outside_ms=1.0,
    bus_gb_s=10,
    load_s=15,
)
"""A model of 8 billion weights in 8 bits, 32 layers, 8 KV heads of 128, on one card with 1 TB/s of which two thirds are
reached. Assumed.
"""

SERVER_70B: Final = roofline(
    "server-70b",
    weights_gb=75,
    cell_bytes=320 << 10,
    memory_gb_s=3000,
    prefill_tok_s=3000,
    sequence_ms=0.2,
    outside_ms=1.0,
    bus_gb_s=25,
    load_s=90,
)
"""A model of 70 billion weights in 8 bits, 80 layers, 8 KV heads of 128, on one accelerator with 4.8 TB/s of which two
thirds are reached. Assumed.
"""

_ASSUMED: Final = {times.name: times for times in (CARD_8B, SERVER_70B)}


def table(name: str) -> StepTimes:
    """The table of this name: an assumed one, or a measured one of the folder `tables`."""
    if name in _ASSUMED:
        return _ASSUMED[name]
    return msgspec.json.decode((_FOLDER / f"{name}.json").read_bytes(), type=StepTimes)
