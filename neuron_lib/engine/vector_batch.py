"""How many texts and tokens an engine of vectors takes at once. Pure."""

from typing import Final

from neuron_lib.types import ContextParams

__all__ = ("vector_batch",)

_MOST_TOKENS: Final = 2048
"""Tokens of all texts that vectors are made of at once: attention over them takes about 200 MiB in a small model."""
_MOST_TEXTS: Final = 64
"""Texts that vectors are made of at once. A step with a few short texts takes nearly as long as one with many."""


def vector_batch(params: ContextParams, *, n_ctx: int) -> tuple[int, int]:
    """The texts and the tokens of one step, for texts of up to `n_ctx` tokens.

    All tokens of a text must be computed at once, which takes memory for each: so no text is longer than a few thousand
    tokens, unless `n_batch` is larger.
    """
    tokens = min(n_ctx, max(params.n_batch, _MOST_TOKENS))
    return min(_MOST_TEXTS, tokens), tokens
