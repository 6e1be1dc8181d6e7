"""What one request may take of a model, from the model's facts. Pure.

The same numbers are advertised, refused by, and sent to the engine with each request.
"""

from neuron_lib.admission import MINIMAL, Capacity
from neuron_lib.engine.protocol import ModelFacts
from neuron_lib.types import ModelLimit, Servable

__all__ = ("capacity_of", "request_limit", "servable")


def request_limit(facts: ModelFacts, *, max_prompt_tokens: int, max_tokens: int) -> ModelLimit:
    """The limits of one request in tokens. `max_tokens` is the most that a reply gets that asks for no number."""
    return ModelLimit(
        context=facts.n_ctx,
        input=facts.prompt_limit(max_prompt_tokens),
        output=min(max_tokens, facts.n_ctx),
    )


def capacity_of(facts: ModelFacts, *, limit: ModelLimit, seats: int) -> Capacity:
    """What the model has while it is idle. A model that makes vectors has no cells."""
    return Capacity(seats=seats, prompt_tokens=limit.input, cells=facts.kv_cells or None, cell_bytes=facts.cell_bytes)


def servable(capacity: Capacity, *, standstill: str | None) -> Servable:
    """Whether the model could serve the smallest request if it were idle. A busy engine can, and one that has stopped
    getting on cannot: `standstill` says so in words.
    """
    if standstill is not None:
        return Servable(ok=False, reason="stalled", detail=standstill)
    refusal = capacity.refusal(MINIMAL)
    return Servable(ok=True) if refusal is None else Servable(ok=False, reason=refusal.code, detail=refusal.message)
