"""What a program says about its model, as far as it says anything. Reading is pure and believes nothing else."""

from contextlib import suppress
from typing import Any, Final

import anyio
import msgspec

from neuron_lib.types import ModelLimit
from neuron_lib.upstream.client import Unreachable, UpstreamClient
from neuron_lib.upstream.connection import ConnectionLost
from neuron_lib.upstream.facts import UpstreamFacts

__all__ = ("context_in", "limit_of", "read_facts")

_MODELS: Final = "/v1/models"
_LIMIT_S: Final = 5.0
_MOST_TOKENS: Final = 1 << 24
_PLACES: Final = (("max_model_len",), ("meta", "n_ctx"), ("context_length",))
"""Where programs write how many tokens a request may have: vLLM and SGLang, llama.cpp, and others."""


async def read_facts(client: UpstreamClient, stated: UpstreamFacts, *, max_prompt_tokens: int) -> UpstreamFacts:
    """The facts of the configuration, with the context that the program says if the configuration says none."""
    if stated.limit is not None:
        return stated
    context = None
    with suppress(Unreachable, ConnectionLost), anyio.move_on_after(_LIMIT_S):
        exchange = await client.send("GET", _MODELS, silence_s=_LIMIT_S)
        async with exchange:
            if exchange.head.status == 200:
                context = context_in(await exchange.read_whole())
    return msgspec.structs.replace(stated, limit=limit_of(context, max_prompt_tokens=max_prompt_tokens))


def context_in(body: bytes) -> int | None:
    """The tokens of prompt and reply together, in an answer to GET /v1/models. None where it does not say that."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    models = answer.get("data") if isinstance(answer, dict) else None
    model = models[0] if isinstance(models, list) and models else None
    for place in _PLACES:
        value: Any = model
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and 1 < value <= _MOST_TOKENS:
            return value
    return None


def limit_of(context: int | None, *, max_prompt_tokens: int) -> ModelLimit | None:
    """The limits of a request to a model with this context. None where that is not known."""
    if context is None or context < 2:
        return None
    return ModelLimit(context=context, input=min(max_prompt_tokens, context - 1), output=context)
