"""Which sampling a request gets: what it asks for, else what the model recommends, else what is configured. Pure."""

from typing import Any

from neuron_lib.types import CommonSampling, Sampling, SamplingParams

__all__ = ("resolve_sampling",)


def resolve_sampling(
    asked: SamplingParams, *, recommended: CommonSampling, defaults: CommonSampling, fresh_seed: int
) -> Sampling:
    """Settle each parameter by itself, in that order. A parameter that nobody gives is off.

    A temperature of 0 or below takes the highest score after the penalties. Without penalties small quantised models
    repeat themselves for ever. A client that wants the highest score itself asks for a `repetition_penalty` of 1.
    """
    settled: dict[str, Any] = {"seed": fresh_seed}
    for opinion in (defaults, recommended, asked):
        given = {name: getattr(opinion, name, None) for name in Sampling.__struct_fields__}
        settled |= {name: value for name, value in given.items() if value is not None}
    return Sampling(**settled)
