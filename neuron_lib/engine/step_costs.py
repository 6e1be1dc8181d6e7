"""The time that steps of each size take on this machine with this model, and what follows for the next step. Pure.

The times are measured from the steps themselves.
"""

from typing import Final

from neuron_lib.moving_average import smooth

__all__ = ("StepCosts",)

_SMALLEST_CHUNK: Final = 16
"""The least prompt tokens of a step beside replies, so that a prompt ends however slow the machine is."""
_TILE: Final = 64
_NEARLY_A_TILE: Final = 56
"""On a CPU, attention takes either 64 tokens of a prompt at once or each by itself. So 56 take as long as 64
(measured).
"""
_GATHERING_STEPS: Final = 4
_LARGEST_DECODE: Final = 64
"""Larger steps count as steps of this many tokens."""


class StepCosts:
    """Times of steps in seconds. `target_step_s` is the wanted time of a step that reads a prompt beside running
    replies.

    Lives as long as its engine. Times are arguments; there is no clock here.
    """

    def __init__(self, *, target_step_s: float) -> None:
        self.target_step_s = target_step_s
        self.prefill_token_s: float | None = None
        self.move_token_s: float | None = None
        self._decode_s: dict[int, float] = {}  # by the tokens of the step

    def __repr__(self) -> str:
        return f"<StepCosts prefill {self.prefill_token_s} s per token, decode {self._decode_s}>"

    @property
    def prefill_tok_s(self) -> float:
        """Tokens of prompts that are read in a second beside nothing else; 0.0 before the first measurement."""
        return 1 / self.prefill_token_s if self.prefill_token_s else 0.0

    def observe(self, *, decoded: int, prefilled: int, duration_s: float) -> None:
        """Add the time of a step with so many tokens of replies and of prompts."""
        if prefilled == decoded == 0:
            return  # nothing of the plan was computed
        if prefilled == 0:
            count = min(decoded, _LARGEST_DECODE)
            self._decode_s[count] = smooth(self._decode_s.get(count), duration_s)
        elif prefilled >= _SMALLEST_CHUNK:
            reading_s = duration_s - (self.decode_s(decoded) or 0.0)
            if reading_s > 0:
                self.prefill_token_s = smooth(self.prefill_token_s, reading_s / prefilled)

    def observe_move(self, *, tokens: int, duration_s: float) -> None:
        """Add the time in which the state of so many tokens was copied, between slots or from host memory."""
        if tokens > 0:
            self.move_token_s = smooth(self.move_token_s, duration_s / tokens)

    def decode_s(self, tokens: int) -> float | None:
        """The time of a step of `tokens` tokens in seconds, measured or estimated. None before the first measurement.

        Between two measured sizes, and beyond them, the estimate is a straight line. If only one size was measured,
        twice the tokens take twice the time.
        """
        tokens = min(tokens, _LARGEST_DECODE)
        if tokens in self._decode_s or not self._decode_s or tokens == 0:
            return self._decode_s.get(tokens, None if tokens else 0.0)
        below = [0, *(n for n in self._decode_s if n < tokens)]
        above = [n for n in self._decode_s if n > tokens]
        # The two nearest sizes around it, or the two largest below it. 0 tokens take no time.
        low, high = (max(below), min(above)) if above else sorted(below)[-2:]
        low_s, high_s = self._decode_s.get(low, 0.0), self._decode_s[high]
        line_s = low_s + (high_s - low_s) * (tokens - low) / (high - low)
        return line_s if above else max(line_s, high_s)  # after a disturbed measurement the line may fall

    def prefill_budget(self, *, decoding: int, room: int) -> int:
        """The number of prompt tokens that the next step should read beside `decoding` replies, at most `room`."""
        if decoding == 0:
            return room  # no reply waits for this step
        if self.prefill_token_s is None:
            return min(room, _SMALLEST_CHUNK)  # this step measures what a token costs
        spare_s = self.target_step_s - (self.decode_s(decoding) or 0.0)
        tokens = int(spare_s / self.prefill_token_s)
        if _NEARLY_A_TILE <= tokens < _TILE:
            tokens = _TILE
        # One more, because libllama computes it together with the tokens of the replies, and the others after that.
        return min(room, max(tokens, _SMALLEST_CHUNK) + 1)

    def is_worth_moving(self, tokens: int, *, instead_of: int) -> bool:
        """Whether copying the state of `tokens` tokens is faster than computing `instead_of` tokens."""
        if self.prefill_token_s is None or self.move_token_s is None:
            return True  # not measured yet, so it is tried
        return tokens * self.move_token_s < instead_of * self.prefill_token_s

    def is_worth_gathering(self, tokens: int, *, sequences: int) -> bool:
        """Whether copying the state of `tokens` tokens is worth computing `sequences` in one piece from then on.

        A reply is assumed to last for some dozens of steps. A gap makes each of them longer by a part.
        """
        step_s = self.decode_s(sequences)
        return self.move_token_s is None or step_s is None or tokens * self.move_token_s < _GATHERING_STEPS * step_s
