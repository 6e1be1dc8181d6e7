"""Log-probabilities as servers write them, as our own. Pure."""

import re
from itertools import zip_longest
from typing import Final

from neuron_lib.types import Likely, TokenLogprob
from neuron_lib.upstream import chunks

__all__ = ("tokens_of",)

_MOST_TOP: Final = 64
_SPELLED: Final = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
"""How OpenAI's completions, and a neuron's, spell a token that is no text by itself."""


def tokens_of(told: chunks.Logprobs | None) -> tuple[TokenLogprob, ...]:
    """The tokens of a piece of a choice, in either of OpenAI's two shapes. Empty if none was asked for."""
    if told is None:
        return ()
    if told.content is not None:
        return tuple(map(_token, told.content))
    rows = zip_longest(told.tokens or (), told.token_logprobs or (), told.top_logprobs or ())
    return tuple(
        TokenLogprob(_piece(token), logprob or 0.0, _likely(top or {})) for token, logprob, top in rows if token
    )


def _token(told: chunks.Likely) -> TokenLogprob:
    top = tuple(Likely(_bytes(each), each.logprob) for each in (told.top_logprobs or ())[:_MOST_TOP])
    return TokenLogprob(_bytes(told), told.logprob, top)


def _bytes(told: chunks.Likely) -> bytes:
    if told.bytes is None or not all(0 <= byte <= 255 for byte in told.bytes):
        return told.token.encode()
    return bytes(told.bytes)


def _likely(top: dict[str, float]) -> tuple[Likely, ...]:
    return tuple(Likely(_piece(token), logprob) for token, logprob in list(top.items())[:_MOST_TOP])


def _piece(token: str) -> bytes:
    spelled = _SPELLED.fullmatch(token)
    return token.encode() if spelled is None else bytes.fromhex(spelled[1].replace("\\x", ""))
