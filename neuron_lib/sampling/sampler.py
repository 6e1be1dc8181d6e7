"""Choosing the next token from a row of scores: adjust them, filter the vocabulary, divide by the temperature, draw.

The order and the arithmetic are llama.cpp's, the code is numpy on the whole row: its own chain builds an array of
structs of the entire vocabulary for each token, which costs ten times as much, and aborts the process on scores that
are NaN. Knows no native pointer.
"""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from msgspec import Struct

from neuron_lib.sampling.filters import Scores, top_k
from neuron_lib.sampling.lottery import Lottery
from neuron_lib.sampling.penalties import SamplingVocab, penalties
from neuron_lib.types import Likely, Sampling, TokenLogprob

__all__ = ("Constraint", "Draw", "Sampler", "SamplerChain", "SamplingVocab")

_quietly: Final = np.errstate(all="ignore")
"""Absurd numbers in a request may overflow; any token is a fair answer to them."""

_BLOCK: Final = 256
_COLDEST: Final = 1e-6
"""Temperatures below are greedy: nothing but the highest score would have a chance, and dividing would overflow."""

_LEAST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


class Draw(Struct, frozen=True):
    """The next token of a sequence, and its log-probability where somebody wants to know it."""

    token: int
    logprob: TokenLogprob | None = None


class Constraint(Protocol):
    """What the text of a reply must look like, one token after the other. At least one token is always allowed."""

    def allows(self, token: int) -> bool:
        """Whether the token may come next; the end of the reply is a token as well."""
        ...

    def mask(self, row: Scores) -> None:
        """Write minus infinity over the score of every token that may not come next."""
        ...

    def accept(self, token: int) -> None:
        """Go on behind `token`, which is allowed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow but the end."""
        ...


class Sampler(Protocol):
    """Chooses the tokens of one sequence, in order; each is asked for once, when it is certain to be kept."""

    def sample(self, row: Scores) -> Draw:
        """The next token, from the scores that the model gave it."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the reply may not go on."""
        ...


class SamplerChain:
    """The sampler of one sequence; remembers its tokens as far as they matter, and its random numbers."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        history: Sequence[int],
        vocab: SamplingVocab,
        top_logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """`history` is the prompt, which counts for the penalties and for DRY. `top_logprobs` None means no
        log-probabilities, else how many alternatives are wanted with each.
        """
        self._temperature: Final = sampling.temperature
        self._lottery: Final = Lottery(sampling)
        self._penalties: Final = penalties(sampling, history=history, vocab=vocab)
        self._vocab: Final = vocab
        self._top_logprobs: Final = top_logprobs
        self._constraint: Final = constraint
        # Room for a row in whole blocks. Without it the allocator would take fresh pages for each row, and give them
        # back, which costs several times the arithmetic.
        self._scratch: Scores = np.empty(0, np.float32)

    def sample(self, row: Scores) -> Draw:
        """The next token, as an index into `row`, which is only read. Scores that are NaN give a token all the same."""
        if self._scratch.size < row.size:
            self._scratch = np.empty(-(-row.size // _BLOCK) * _BLOCK, np.float32)
        token = self._certain(row)
        if token is None:
            token = self._uncertain(row)
        if self._constraint is not None:
            token = self._constrained(self._constraint, row, token)
        logprob = None if self._top_logprobs is None else self._logprob(row, token, self._top_logprobs)
        for penalty in self._penalties:
            penalty.remember(token)
        return Draw(token, logprob)

    @property
    def is_complete(self) -> bool:
        """Whether the constraint lets nothing follow but the end."""
        return self._constraint is not None and self._constraint.is_complete

    def _certain(self, row: Scores) -> int | None:
        """The choice of the greedy where no penalty can change it, so that none need be made."""
        if self._temperature >= _COLDEST:
            return None
        best = int(row.argmax())
        return best if all(penalty.spares(best) for penalty in self._penalties) else None

    @_quietly
    def _uncertain(self, row: Scores) -> int:
        return self._choose(self._adjusted(row))

    def _adjusted(self, row: Scores) -> Scores:
        """`row` itself where nothing changes, else changed scores in the scratch."""
        if not self._penalties:
            return row
        scores = self._scratch[: row.size]
        np.copyto(scores, row)
        for penalty in self._penalties:
            penalty.apply(scores)
        return scores

    def _choose(self, scores: Scores) -> int:
        best = int(scores.argmax())  # a NaN counts as the highest
        if self._temperature < _COLDEST or not math.isfinite(scores[best]):
            return best
        return self._lottery.draw(scores, float(scores[best]))

    @_quietly
    def _constrained(self, constraint: Constraint, row: Scores, token: int) -> int:
        """`token` if it may come next, else one chosen among those that may; the constraint moves on behind it."""
        # Most tokens are allowed as they come, and to ask about one is far cheaper than to mask a vocabulary.
        if not constraint.allows(token):
            masked = self._adjusted(row).copy()
            constraint.mask(masked)
            token = self._choose(masked)
            if not constraint.allows(token):  # nothing may follow but an end that comes too early
                token = next((end for end in self._vocab.eog if constraint.allows(end)), token)
        constraint.accept(token)
        return token

    @_quietly
    def _logprob(self, row: Scores, token: int, top: int) -> TokenLogprob:
        scores, best = row, row[row.argmax()]  # a NaN counts as the highest
        if math.isnan(best):
            scores = np.where(np.isnan(row), np.float32(-math.inf), row)
            best = scores.max()
        weights = np.subtract(scores, best, out=self._scratch[: row.size])
        total = float(np.log(np.exp(weights, out=weights).sum(dtype=np.float64)))

        def likely(token: int) -> Likely:
            logprob = float(scores[token] - best) - total
            # In this order it also takes the place of NaN, which is what infinite scores come to.
            return Likely(self._vocab.text(token), max(_LEAST_LOGPROB, logprob))

        chosen = likely(token)
        highest = top_k(scores, min(top, scores.size)).tolist() if top else []
        return TokenLogprob(chosen.piece, chosen.logprob, tuple(map(likely, highest)))
