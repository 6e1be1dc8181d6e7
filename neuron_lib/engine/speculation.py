"""Guessing the next tokens from what the text has said before, and whether a guess is worth its price. Pure.

A reply often repeats its prompt: code that is edited, names, quotations. Tokens that followed the same few tokens
earlier are computed along with the next one, and those that sampling confirms are free.
"""

from typing import Final

from neuron_lib.engine.step_costs import StepCosts
from neuron_lib.moving_average import smooth

__all__ = ("MAX_DRAFT", "DraftPolicy", "PromptLookup")

MAX_DRAFT: Final = 8
_MATCH: Final = 3
"""Tokens that must be the same before a continuation is copied."""
_TRUST: Final = 0.5
"""How often a guessed token is right, for a sequence that has not tried yet."""
_GAIN: Final = 1.05
"""Times as many tokens per second as without guesses must be in sight."""
_PROBE_EVERY: Final = 64
"""Chances let pass after which a sequence that has guessed badly tries one token again."""


class PromptLookup:
    """Finds the last place where a growing text has said its present last tokens before."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], int] = {}  # the tokens → where what followed them begins
        self._indexed = 0

    def draft(self, tokens: list[int], limit: int) -> list[int]:
        """At most `limit` tokens that may follow; `tokens` is always the same text, longer each time."""
        for end in range(max(self._indexed + 1, _MATCH), len(tokens)):
            self._seen[tuple(tokens[end - _MATCH : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
        start = self._seen.get(tuple(tokens[-_MATCH:]))
        return [] if start is None else tokens[start : start + limit]


class DraftPolicy:
    """How much one sequence should guess, by how well it has guessed and what a larger step costs."""

    def __init__(self) -> None:
        self.accuracy = _TRUST
        self._passed = 0

    def observe(self, *, drafted: int, right: int) -> None:
        """Take in that of `drafted` guesses the first `right` were confirmed; those behind a wrong one say nothing."""
        if drafted:
            self.accuracy = smooth(self.accuracy, right / min(drafted, right + 1))

    def length(self, costs: StepCosts, *, decoding: int) -> int:
        """Tokens worth guessing in a step of `decoding` tokens; 0 for none.

        Each guess adds the chance that it and all before it are right to the tokens that the step brings, and a little
        to its time; the best length is where tokens per second are highest.
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
