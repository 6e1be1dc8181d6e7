"""What was counted and measured of a model and its engine, for those who watch a host."""

from enum import StrEnum

from msgspec import Struct

from neuron_lib.types.models import LoadStage

__all__ = ("Distribution", "EndedLoad", "EngineMeasures", "LoadOutcome", "ResidencyCounts")


class Distribution(Struct, frozen=True, kw_only=True):
    """How often values of each size came. `counts` has one number for each of `bounds`, which ascend, and a last one.

    A value counts at the first bound that is not smaller than the value, and at the last number if all are smaller.
    `sum` is the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class EngineMeasures(Struct, frozen=True, kw_only=True):
    """What an engine has counted since its process started, at most a few seconds old. A cell holds one token.

    `token_gaps` has the seconds between two arrivals of tokens of one reply. `kv_cells` is how many cells the attention
    cache has, 0 where that is not known. `kv_cells_held` are those in use, prompts that are kept for later included.
    `kv_cells_live` are those of replies that run. `prefill_tok_s` is how many tokens of prompts the engine reads in a
    second while it does nothing else, as a moving average over its steps; 0.0 before the first prompt.
    """

    token_gaps: Distribution
    kv_cells: int = 0
    kv_cells_held: int = 0
    kv_cells_live: int = 0
    prefill_tok_s: float = 0.0


class LoadOutcome(StrEnum):
    """How a load ended."""

    LOADED = "loaded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class EndedLoad(Struct, frozen=True, kw_only=True):
    """One load that has ended, however it ended. Times are seconds.

    `stages_s` has the time of each stage that was reached, in order; the load ended in the last one. `fetched_bytes`
    are the bytes of files that came into the cache during the load. They include the beginning of a file that an
    earlier, broken fetch had left there. `error` is the code of the error of a load that failed, None otherwise.
    """

    model_id: str
    outcome: LoadOutcome
    stages_s: tuple[tuple[LoadStage, float], ...]
    fetched_bytes: int
    error: str | None


class ResidencyCounts(Struct, frozen=True, kw_only=True):
    """What a host has done by itself about its models. All are 0 on a host whose rules do nothing.

    `waiting_loads` are the loads that wait for room now. The others count since the registry was made: models that were
    unloaded to make room for another one, and models that nobody had used for their idle time.
    """

    waiting_loads: int
    unloaded_for_room: int
    unloaded_idle: int
