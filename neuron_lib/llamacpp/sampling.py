"""Which sampling a request gets: what it asks for, else what the model recommends, else what is configured. Pure."""

from typing import Any

from neuron_lib.config import SamplingConfig
from neuron_lib.types import Sampling, SamplingParams

__all__ = ("resolve_sampling",)


def resolve_sampling(
    asked: SamplingParams, *, recommended: SamplingParams, defaults: SamplingConfig, fresh_seed: int
) -> Sampling:
    """Settle every parameter on its own, in that order; what nobody speaks of stays off.

    A temperature ≤ 0 takes the highest score, but of the scores after the penalties: without them small quantised
    models repeat themselves for ever (wire contract §9, 2026-05-19). Who wants the bare highest score asks for a
    `repetition_penalty` of 1.
    """
    settled: dict[str, Any] = {"seed": fresh_seed}
    for opinion in (defaults, recommended, asked):
        for name in Sampling.__struct_fields__:
            value = getattr(opinion, name, None)
            if value is not None:
                settled[name] = value
    return Sampling(**settled)
