"""What one request may take of a model, from the model's facts. Pure.

The same numbers are advertised, refused by, and sent to the engine with each request.
"""

from typing import Final

from neuron_lib.admission import MINIMAL, Capacity
from neuron_lib.engine.protocol import ModelFacts
from neuron_lib.types import ModelLimit, Servable

__all__ = ("capacity_of", "readable_tokens", "request_limit", "servable")

_STEP: Final = 1024
_LEAST_READABLE: Final = 4096
"""Tokens. A machine that was disturbed for a moment must not shut out prompts of a usual length."""


def readable_tokens(*, prefill_tok_s: float, target_s: float) -> int | None:
    """How many tokens of a prompt are read within `target_s`, in whole steps of 1024 and at least 4096.

    None for no limit: if the speed is not known yet (0.0), or if there is no target (0).
    """
    tokens = prefill_tok_s * target_s
    return max(_LEAST_READABLE, int(tokens) // _STEP * _STEP) if tokens > 0 else None


def request_limit(
    facts: ModelFacts, *, max_prompt_tokens: int, max_tokens: int, readable: int | None = None
) -> ModelLimit | None:
    """The limits of one request in tokens.

    `max_tokens` is the most that a reply gets that asks for no number. `readable` is how many tokens are read in time,
    None for no limit. The context is that of the engine, which the memory plan has fitted into memory.

    None for a model that leaves no room for a prompt and a reply: a limit of 0 would refuse every request at a gateway.
    """
    if readable is not None:
        max_prompt_tokens = min(max_prompt_tokens, readable - 1)  # and at least one token of a reply
    context = facts.n_ctx if readable is None else min(facts.n_ctx, readable)
    limit = ModelLimit(context=context, input=facts.prompt_limit(max_prompt_tokens), output=min(max_tokens, context))
    return limit if limit.input and limit.output else None


def capacity_of(facts: ModelFacts, *, limit: ModelLimit | None, seats: int) -> Capacity:
    """What the model has while it is idle, with the `limit` of `request_limit`. A model for vectors has no cells."""
    return Capacity(
        seats=seats,
        prompt_tokens=0 if limit is None else limit.input,
        cells=facts.kv_cells or None,
        cell_bytes=facts.cell_bytes,
    )


def servable(capacity: Capacity, *, standstill: str | None) -> Servable:
    """Whether the model could serve the smallest request if it were idle. A busy engine can, and one that has stopped
    getting on cannot: `standstill` says so in words.
    """
    if standstill is not None:
        return Servable(ok=False, reason="stalled", detail=standstill)
    refusal = capacity.refusal(MINIMAL)
    return Servable(ok=True) if refusal is None else Servable(ok=False, reason=refusal.code, detail=refusal.message)
