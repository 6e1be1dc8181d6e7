"""The log-probabilities of tokens in the shape of OpenAI's APIs for chats and responses. Pure."""

from typing import Final

from msgspec import Struct

from neuron_lib.types import Likely, TokenLogprob

__all__ = ("VERY_UNLIKELY", "LikelyToken", "WrittenToken", "written")

VERY_UNLIKELY: Final = -9999.0
"""The log-probability that OpenAI writes for a probability of 0, because JSON has no infinity."""


class LikelyToken(Struct):
    """A token that the model could have chosen. `bytes` may be a part of a character."""

    token: str
    logprob: float
    bytes: tuple[int, ...]


class WrittenToken(LikelyToken):
    """A token that the model chose, and the likeliest ones at its place."""

    top_logprobs: tuple[LikelyToken, ...]


def written(token: TokenLogprob) -> WrittenToken:
    """A token in OpenAI's shape."""
    return WrittenToken(*_fields(token), tuple(LikelyToken(*_fields(top)) for top in token.top))


def _fields(token: TokenLogprob | Likely) -> tuple[str, float, tuple[int, ...]]:
    return token.piece.decode(errors="replace"), max(token.logprob, VERY_UNLIKELY), tuple(token.piece)
