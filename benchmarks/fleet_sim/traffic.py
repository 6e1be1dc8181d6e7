"""Who asks what and when. Pure: the same numbers come from the same seed.

Arrivals are those of conversations. A conversation has one or more turns, and each turn sends the whole conversation
again, as chat clients do. The next turn comes some time after the reply to the last one has ended.
"""

import math
from collections.abc import Iterator
from itertools import count
from typing import Final, Literal, TypeAlias

import numpy as np
from msgspec import Struct

__all__ = ("Arrivals", "Conversation", "Lengths", "Traffic", "Turn", "arrival_times", "conversations")

Arrivals: TypeAlias = Literal["poisson", "gamma", "on-off", "wave"]
"""How conversations begin.

poisson   independently of each other
gamma     in bursts: the times between two have a Gamma distribution with the coefficient of variation `cv`
on-off    at four times the mean rate for `period_s` / 4, and not at all for the rest of the period
wave      at a rate that goes up and down by 80 % in each `period_s`, as by day and by night
"""

_LIVELY: Final = 4.0
"""How much faster than on average conversations begin in the lively part of `on-off`."""
_SWING: Final = 0.8


class Lengths(Struct, frozen=True, kw_only=True):
    """A log-normal distribution of tokens, by its median and the standard deviation `sigma` of its logarithm.

    Numbers below `least` and above `most` are taken as these.
    """

    median: float
    sigma: float
    least: int = 1
    most: int = 1 << 20

    def draw(self, random: np.random.Generator) -> int:
        """One number of tokens."""
        drawn = self.median * math.exp(self.sigma * random.standard_normal())
        return int(min(self.most, max(self.least, drawn)))


class Traffic(Struct, frozen=True, kw_only=True):
    """What comes, and how much of it.

    `conversations_per_s` begin on average. Each has a system prompt, one of `system_prompts` of `system_tokens` tokens,
    the first one most often (Zipf with `zipf`); 0 means that each has its own. `turns` is the mean number of turns, of
    which each may be the last one with equal chance. `think_s` is the median time until the next turn. One in
    `callers` principals sends all turns of a conversation, the first one most often; 0 means that nobody is identified.
    """

    conversations_per_s: float
    prompt: Lengths
    reply: Lengths
    arrivals: Arrivals = "poisson"
    cv: float = 1.0
    period_s: float = 60.0
    system_prompts: int = 0
    system_tokens: int = 0
    zipf: float = 1.0
    turns: float = 1.0
    think_s: float = 20.0
    callers: int = 0
    caller_zipf: float = 1.0

    @property
    def requests_per_s(self) -> float:
        """Turns of all conversations in a second, if none is given up."""
        return self.conversations_per_s * self.turns


class Turn(Struct, frozen=True):
    """One turn: so many tokens are new in the prompt, the reply has so many, and `think_s` seconds passed before it."""

    prompt: int
    reply: int
    think_s: float


class Conversation(Struct, frozen=True):
    """A conversation. `system` is the number of its system prompt, and of tokens in it. `caller` is "" for nobody."""

    number: int
    begins_s: float
    system: tuple[int, int]
    turns: tuple[Turn, ...]
    caller: str


def arrival_times(traffic: Traffic, random: np.random.Generator) -> Iterator[float]:
    """When conversations begin, in seconds, without an end."""
    rate, now_s = traffic.conversations_per_s, 0.0
    if traffic.arrivals == "gamma":
        shape = 1 / traffic.cv**2
        while True:
            now_s += random.gamma(shape, 1 / (rate * shape))
            yield now_s
    # Thinning: candidates come at the highest rate, and each is taken with the chance that the rate is that high now.
    peak = {"poisson": 1.0, "on-off": _LIVELY, "wave": 1 + _SWING}[traffic.arrivals]
    while True:
        now_s += random.exponential(1 / (rate * peak))
        if random.random() * peak < _rate_at(traffic, now_s):
            yield now_s


def _rate_at(traffic: Traffic, now_s: float) -> float:
    """The rate at that time, divided by the mean rate."""
    phase = now_s / traffic.period_s % 1.0
    if traffic.arrivals == "on-off":
        return _LIVELY if phase < 1 / _LIVELY else 0.0
    if traffic.arrivals == "wave":
        return 1 - _SWING * math.cos(2 * math.pi * phase)
    return 1.0


def conversations(traffic: Traffic, *, seed: int, until_s: float) -> Iterator[Conversation]:
    """All conversations that begin before `until_s`, in order."""
    # Streams of their own, so that a change of the lengths leaves the times as they are.
    times, lengths, names = (np.random.default_rng([seed, stream]) for stream in range(3))
    shares = _zipf(traffic.system_prompts, traffic.zipf)
    callers = _zipf(traffic.callers, traffic.caller_zipf)
    for number, begins_s in zip(count(), arrival_times(traffic, times), strict=False):
        if begins_s >= until_s:
            return
        system = int(np.searchsorted(shares, names.random())) if traffic.system_prompts else -1 - number
        caller = f"caller-{int(np.searchsorted(callers, names.random()))}" if traffic.callers else ""
        turns = 1 + (int(lengths.geometric(1 / traffic.turns)) - 1 if traffic.turns > 1 else 0)
        yield Conversation(
            number, begins_s, (system, traffic.system_tokens), tuple(_turns(traffic, turns, lengths)), caller
        )


def _turns(traffic: Traffic, turns: int, random: np.random.Generator) -> Iterator[Turn]:
    for turn in range(turns):
        prompt, reply = traffic.prompt.draw(random), traffic.reply.draw(random)
        yield Turn(prompt, reply, traffic.think_s * math.exp(random.standard_normal()) if turn else 0.0)


def _zipf(count_: int, exponent: float) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The shares of the first, the first two, ... of so many, if the n-th is chosen n**-exponent times as often."""
    weights = np.arange(1, count_ + 1, dtype=np.float64) ** -exponent
    return np.cumsum(weights / weights.sum()) if count_ else weights
