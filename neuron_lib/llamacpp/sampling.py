"""Which sampling a request gets: what it asks for, else what the model recommends, else the defaults. Pure."""

from neuron_lib.config import SamplingConfig
from neuron_lib.types import Sampling, SamplingParams

__all__ = ("resolve_sampling",)


def resolve_sampling(
    asked: SamplingParams, *, recommended: SamplingParams, defaults: SamplingConfig, fresh_seed: int
) -> Sampling:
    """Settle every parameter on its own, in that order.

    A temperature ≤ 0 takes the highest score, but of the scores after the penalties: without them small quantised
    models repeat themselves for ever (wire contract §9, 2026-05-19). Who wants the bare highest score asks for a
    `repetition_penalty` of 1.
    """

    def pick(wish: float | None, advice: float | None, default: float) -> float:
        return next(value for value in (wish, advice, default) if value is not None)

    return Sampling(
        temperature=pick(asked.temperature, recommended.temperature, defaults.temperature),
        seed=fresh_seed if asked.seed is None else asked.seed,
        top_k=int(pick(asked.top_k, recommended.top_k, 0)),
        top_p=pick(asked.top_p, recommended.top_p, 1.0),
        min_p=pick(asked.min_p, recommended.min_p, 0.0),
        repetition_penalty=pick(asked.repetition_penalty, recommended.repetition_penalty, defaults.repetition_penalty),
        repeat_last_n=int(pick(asked.repeat_last_n, recommended.repeat_last_n, defaults.repeat_last_n)),
        frequency_penalty=pick(asked.frequency_penalty, None, 0.0),
        presence_penalty=pick(asked.presence_penalty, None, 0.0),
    )
