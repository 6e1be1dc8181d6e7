"""Chooses the next token from a row of scores: penalties, filters, division by the temperature, draw.

Order and arithmetic are llama.cpp's. The code is numpy on the whole row. llama.cpp's own chain builds an array of
structs of the entire vocabulary for each token, which takes ten times as long. It also ends the process if scores are
NaN.
Knows no native pointer.
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
"""Extreme numbers in a request may overflow. Then any token is a valid answer, and no warning is needed."""

_BLOCK: Final = 256
_COLDEST: Final = 1e-6
"""Temperatures below this are greedy: only the highest score would have a chance, and the division would overflow."""

_LEAST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON cannot express."""


class Draw(Struct, frozen=True):
    """The next token of a sequence, and its log-probability if it is wanted."""

    token: int
    logprob: TokenLogprob | None = None


class Constraint(Protocol):
    """The rule that the text of a reply must follow, token by token. At least one token is always allowed."""

    def allows(self, token: int) -> bool:
        """Whether the token may come next. The end of the reply is a token too."""
        ...

    def mask(self, row: Scores) -> None:
        """Write minus infinity over the score of every token that may not come next."""
        ...

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether only the end may follow."""
        ...


class Sampler(Protocol):
    """Chooses the tokens of one sequence, in order. Each token is asked for once, when it is certain to be kept."""

    def sample(self, row: Scores) -> Draw:
        """The next token, from `row`, the model's scores: float32 of shape (n_vocab,), with NaN and -inf allowed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether the reply must end."""
        ...


class SamplerChain:
    """The sampler of one sequence. Remembers its tokens as far as they matter, and the state of its random numbers.

    Lives as long as its sequence. One thread at a time.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        history: Sequence[int],
        vocab: SamplingVocab,
        top_logprobs: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        """`history` is the prompt, which counts for the penalties and for DRY.

        `top_logprobs` is the number of alternatives that are wanted with each log-probability. None: no
        log-probabilities.
        """
        self._temperature: Final = sampling.temperature
        self._lottery: Final = Lottery(sampling)
        self._penalties: Final = penalties(sampling, history=history, vocab=vocab)
        self._vocab: Final = vocab
        self._top_logprobs: Final = top_logprobs
        self._constraint: Final = constraint
        # Room for a row in whole blocks. Without it the allocator would take new pages for each row and give them back,
        # which costs several times the arithmetic.
        self._scratch: Scores = np.empty(0, np.float32)

    def sample(self, row: Scores) -> Draw:
        """The next token, as an index into `row`, which is only read. Scores that are NaN give some token too."""
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
        """Whether the constraint allows only the end."""
        return self._constraint is not None and self._constraint.is_complete

    def _certain(self, row: Scores) -> int | None:
        """The greedy choice if no penalty can change it, so that no penalty has to be computed. Otherwise None."""
        if self._temperature >= _COLDEST:
            return None
        best = int(row.argmax())
        return best if all(penalty.spares(best) for penalty in self._penalties) else None

    @_quietly
    def _uncertain(self, row: Scores) -> int:
        return self._choose(self._adjusted(row))

    def _adjusted(self, row: Scores) -> Scores:
        """`row` itself if nothing changes, otherwise the changed scores in the scratch array."""
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
        """`token` if it may come next, otherwise one of the allowed tokens. Advances the constraint."""
        # Most tokens are allowed. Asking about one token is far cheaper than masking a vocabulary.
        if not constraint.allows(token):
            masked = self._adjusted(row).copy()
            constraint.mask(masked)
            token = self._choose(masked)
            if not constraint.allows(token):  # only an end may follow, and it would come too early
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
            # In this order it also replaces NaN, which infinite scores lead to.
            return Likely(self._vocab.text(token), max(_LEAST_LOGPROB, logprob))

        chosen = likely(token)
        highest = top_k(scores, min(top, scores.size)).tolist() if top else []
        return TokenLogprob(chosen.piece, chosen.logprob, tuple(map(likely, highest)))
