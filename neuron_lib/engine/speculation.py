"""Guesses the next tokens from the earlier text, and decides whether a guess is worth its cost. Pure.

A reply often repeats its prompt: edited code, names, quotations. If the last few tokens have occurred before, the
tokens that followed them there are computed together with the next token. Each guess that sampling confirms saves a
step.
"""

from typing import Final

from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.moving_average import smooth

__all__ = ("MAX_DRAFT", "DraftPolicy", "PromptLookup")

MAX_DRAFT: Final = 8
_MATCH: Final = 3
"""The number of tokens that must be equal before their continuation is guessed."""
_TRUST: Final = 0.5
"""The assumed probability that a guess is right, for a sequence that has not guessed yet."""
_GAIN: Final = 1.05
"""The least factor by which the expected tokens per second must grow."""
_PROBE_EVERY: Final = 64
"""After this many opportunities a sequence that has guessed badly tries one token again."""


class PromptLookup:
    """Finds the last position at which a growing text had its present last tokens before. Lives as long as its
    sequence.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], int] = {}  # tokens → position behind them
        self._indexed = 0

    def draft(self, tokens: list[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow. `tokens` is always the same text, and longer each time."""
        for end in range(max(self._indexed + 1, _MATCH), len(tokens)):
            self._seen[tuple(tokens[end - _MATCH : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
        start = self._seen.get(tuple(tokens[-_MATCH:]))
        if start is None:
            return []
        draft = tokens[start : start + limit]
        media = next((place for place, token in enumerate(draft) if token < 0), None)  # which nobody can sample
        return draft[:media]


class DraftPolicy:
    """Decides how many tokens one sequence guesses, by how well it has guessed and what a larger step costs."""

    def __init__(self) -> None:
        self.accuracy: float = _TRUST
        self._passed = 0

    def observe(self, *, drafted: int, right: int) -> None:
        """Of `drafted` guesses the first `right` were confirmed. Guesses behind a wrong one are not counted."""
        if drafted:
            self.accuracy = smooth(self.accuracy, right / min(drafted, right + 1))

    def length(self, costs: StepCosts, *, decoding: int) -> int:
        """The number of tokens to guess in a step of `decoding` tokens. 0: none.

        Each guess adds to the expected tokens of the step the probability that it and all before it are right, and adds
        a little to the time of the step. The best number gives the most tokens per second.
        """
        base_s = costs.decode_s(decoding)
        if base_s is None:
            return 0
        best, best_rate = 0, _GAIN * decoding / base_s
        expected, chance = float(decoding), 1.0
        for length in range(1, MAX_DRAFT + 1):
            chance *= self.accuracy
            expected += chance
            step_s = costs.decode_s(decoding + length)
            if step_s is not None and expected / step_s > best_rate:
                best, best_rate = length, expected / step_s
        if best:
            self._passed = 0
            return best
        self._passed += 1
        if self._passed > _PROBE_EVERY:
            self._passed = 0
            return 1
        return 0
