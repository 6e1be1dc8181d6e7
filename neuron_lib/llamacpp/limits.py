"""What one request may take of a model, from the model's facts. Pure.

The same numbers are advertised, refused by, and sent to the engine with each request.
"""

from neuron_lib.admission import MINIMAL, Capacity
from neuron_lib.engine.protocol import ModelFacts
from neuron_lib.types import ModelLimit, Servable

__all__ = ("capacity_of", "request_limit", "servable")


def request_limit(facts: ModelFacts, *, max_prompt_tokens: int, max_tokens: int) -> ModelLimit | None:
    """The limits of one request in tokens. `max_tokens` is the most that a reply gets that asks for no number.

    None for a model that leaves no room for a prompt and a reply: a limit of 0 would refuse every request at a gateway.
    """
    limit = ModelLimit(
        context=facts.n_ctx,
        input=facts.prompt_limit(max_prompt_tokens),
        output=min(max_tokens, facts.n_ctx),
    )
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
