"""Changes of scores before the choice: logit bias, penalties for earlier tokens, DRY, and no early end.

A penalty writes into the scores that it is given, and remembers the tokens of its sequence. Knows no native pointer.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from itertools import chain, takewhile
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from neuron_lib.sampling.filters import Scores
from neuron_lib.types import Sampling

__all__ = ("Penalty", "SamplingVocab", "penalties")

_LONGEST_EXCESS: Final = 256
"""DRY counts a repetition up to this many tokens beyond the allowed length. The penalty is total long before that."""

_HEAVIEST: Final = float(np.finfo(np.float32).max)


class SamplingVocab(Protocol):
    """What sampling needs of a vocabulary. `eog` are the tokens that end a reply."""

    @property
    def eog(self) -> frozenset[int]: ...

    def text(self, token: int) -> bytes:
        """The bytes of a token, those of control tokens included."""
        ...

    def tokens_containing(self, text: str) -> frozenset[int]:
        """The tokens whose text contains `text`."""
        ...


class Penalty(Protocol):
    """One rule that changes scores. Lives as long as its sequence."""

    def apply(self, scores: Scores) -> None:
        """Change `scores` in place, float32 of shape (n_vocab,)."""
        ...

    def spares(self, token: int) -> bool:
        """Whether `token` certainly stays the highest if it is the highest: no other score is raised, and its own is
        not lowered.
        """
        ...

    def remember(self, token: int) -> None:
        """Note the next token of the sequence."""
        ...


def penalties(sampling: Sampling, *, history: Sequence[int], vocab: SamplingVocab) -> tuple[Penalty, ...]:
    """The penalties that `sampling` asks for, in llama.cpp's order. `history` is the prompt, which counts for all of
    them.
    """
    chosen: list[Penalty] = []
    if sampling.logit_bias:
        chosen.append(_LogitBias(sampling.logit_bias))
    if sampling.has_penalties:
        chosen.append(_Penalties(sampling, history=history))
    if sampling.dry_multiplier > 0 and sampling.dry_penalty_last_n != 0:
        chosen.append(_Dry(sampling, history=history, vocab=vocab))
    if sampling.ignore_eos:
        chosen.append(_NoEnd(vocab.eog, tokens=math.inf))
    if sampling.min_tokens > 0:
        chosen.append(_NoEnd(vocab.eog.union(sampling.stop_token_ids), tokens=sampling.min_tokens))
    return tuple(chosen)


class _LogitBias:
    """Adds to the scores of single tokens. Ids that the vocabulary does not have are ignored."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        known = {token: bias for token, bias in biases.items() if 0 <= token < 1 << 31}
        self._tokens: Final = np.fromiter(known.keys(), np.intp, len(known))
        self._biases: Final = np.fromiter(known.values(), np.float64, len(known))

    def apply(self, scores: Scores) -> None:
        exists = self._tokens < scores.size
        scores[self._tokens[exists]] += self._biases[exists]

    def spares(self, token: int) -> bool:  # noqa: ARG002 - any may be overtaken
        return False

    def remember(self, token: int) -> None:
        pass


class _Penalties:
    """The repetition, frequency and presence penalties, over the last `repeat_last_n` tokens."""

    def __init__(self, sampling: Sampling, *, history: Sequence[int]) -> None:
        self._sampling: Final = sampling
        self._recent: Final[deque[int]] = deque(maxlen=_window(sampling.repeat_last_n))
        self._counts: Final[Counter[int]] = Counter()
        self._only_lowers: Final = (
            sampling.repetition_penalty >= 1 and sampling.frequency_penalty >= 0 and sampling.presence_penalty >= 0
        )
        for token in _latest(history, sampling.repeat_last_n):
            self.remember(token)

    def apply(self, scores: Scores) -> None:
        sampling = self._sampling
        tokens = np.fromiter(self._counts.keys(), np.intp, len(self._counts))
        times = np.fromiter(self._counts.values(), np.float32, len(self._counts))
        seen = scores[tokens]
        seen = np.where(seen > 0, seen / sampling.repetition_penalty, seen * sampling.repetition_penalty)
        scores[tokens] = seen - times * sampling.frequency_penalty - sampling.presence_penalty

    def spares(self, token: int) -> bool:
        return self._only_lowers and token not in self._counts

    def remember(self, token: int) -> None:
        if len(self._recent) == self._recent.maxlen:
            oldest = self._recent[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._recent.append(token)
        self._counts[token] += 1


class _Dry:
    """Lowers the scores of tokens that would prolong a repetition, the more the longer the repetition is.

    A token that contains a breaker ends every repetition, and its own score is never lowered. For each new token there
    is one pass over the tokens. `_runs[i]` says how many tokens just before position i equal the newest tokens. So the
    token at position i would prolong a repetition of that length.
    """

    def __init__(self, sampling: Sampling, *, history: Sequence[int], vocab: SamplingVocab) -> None:
        self._sampling: Final = sampling
        self._breakers: Final[frozenset[int]] = frozenset(
            chain.from_iterable(map(vocab.tokens_containing, sampling.dry_sequence_breakers))
        )
        known = _latest(history, sampling.dry_penalty_last_n)
        # Only the tokens since the last breaker can be the end of a repetition. Of these only a bounded number counts.
        longest = sampling.dry_allowed_length + _LONGEST_EXCESS
        current = sum(1 for _ in takewhile(lambda token: token not in self._breakers, reversed(known[-longest:])))
        self._size = len(known) - current
        room = len(known) + 256
        self._tokens: npt.NDArray[np.int32] = np.zeros(room, np.int32)
        self._runs: npt.NDArray[np.int32] = np.zeros(room, np.int32)
        self._is_breaker: npt.NDArray[np.bool_] = np.zeros(room, np.bool_)
        self._tokens[: self._size] = known[: self._size]
        self._is_breaker[: self._size] = [token in self._breakers for token in known[: self._size]]
        for token in known[self._size :]:
            self.remember(token)

    def apply(self, scores: Scores) -> None:
        sampling, first, end = self._sampling, self._first, self._size
        # A repetition reaches back no further than the window.
        runs = np.minimum(self._runs[first + 1 : end], np.arange(1, end - first, dtype=np.int32))
        found = np.flatnonzero((runs >= sampling.dry_allowed_length) & ~self._is_breaker[first + 1 : end])
        # The longest is last, because numpy keeps the last of several values for one token.
        found = found[np.argsort(runs[found], kind="stable")]
        excess = np.minimum(runs[found] - sampling.dry_allowed_length, _LONGEST_EXCESS)
        penalty = np.minimum(sampling.dry_multiplier * np.power(sampling.dry_base, excess), _HEAVIEST)
        tokens = self._tokens[first + 1 + found]
        scores[tokens] = scores[tokens] - penalty.astype(np.float32)

    def spares(self, token: int) -> bool:
        return token in self._breakers

    def remember(self, token: int) -> None:
        first, end = self._first, self._size
        if end == self._tokens.size:
            self._tokens = np.resize(self._tokens, 2 * end)
            self._runs = np.resize(self._runs, 2 * end)
            self._is_breaker = np.resize(self._is_breaker, 2 * end)
        self._tokens[end] = token
        self._is_breaker[end] = token in self._breakers
        if self._is_breaker[end]:
            self._runs[first : end + 1] = 0
        else:
            self._runs[first + 1 : end + 1] = (self._tokens[first:end] == token) * (self._runs[first:end] + 1)
        self._size = end + 1

    @property
    def _first(self) -> int:
        """The position at which the window begins."""
        window = _window(self._sampling.dry_penalty_last_n)
        return 0 if window is None else max(0, self._size - window)


class _NoEnd:
    """Forbids the tokens that end the reply until there are enough other tokens."""

    def __init__(self, ends: frozenset[int], *, tokens: float) -> None:
        self._ends: Final = ends
        self._tokens: Final = np.fromiter(ends, np.intp, len(ends))
        self._missing = tokens

    def apply(self, scores: Scores) -> None:
        if self._missing > 0:
            scores[self._tokens[self._tokens < scores.size]] = -math.inf

    def spares(self, token: int) -> bool:
        return self._missing <= 0 or token not in self._ends

    def remember(self, token: int) -> None:  # noqa: ARG002 - whatever it is, it counts
        self._missing -= 1


def _window(last_n: int) -> int | None:
    """The size of a window of `last_n` tokens. None if it is unlimited."""
    return None if last_n < 0 else last_n


def _latest(history: Sequence[int], last_n: int) -> Sequence[int]:
    """The part of `history` with which a window of `last_n` tokens begins. `last_n` is not 0."""
    return history if last_n < 0 else history[-last_n:]
