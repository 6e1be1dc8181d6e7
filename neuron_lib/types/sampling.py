"""How tokens are chosen: what can be asked for, within which bounds, and what is settled in the end.

A new parameter is a field of `CommonSampling` and of `Sampling`. The configuration and the request bodies inherit it.
"""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

__all__ = ("CommonSampling", "Sampling", "SamplingParams")

_I32_MAX: Final = 2**31 - 1
_Chance: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Share: TypeAlias = Annotated[float, Meta(gt=0, le=1)]
_Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
_Breaker: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
_TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=_I32_MAX)]
StopTokens: TypeAlias = Annotated[tuple[_TokenId, ...], Meta(max_length=64)]

LastTokens: TypeAlias = Annotated[int, Meta(ge=-1, le=_I32_MAX)]
"""A number of the last tokens; -1 means all of them."""
RepetitionPenalty: TypeAlias = Annotated[float, Meta(gt=0, le=100)]
"""Divides the positive scores of earlier tokens and multiplies their negative ones; 1 changes nothing."""


class CommonSampling(Struct, frozen=True, kw_only=True):
    """The sampling parameters that a request, the publisher of a model and an operator can all give.

    None means "not given". The bounds are checked when a request, a frame or a file is decoded, and not when a program
    makes an instance.

    `temperature` divides the scores; 0 and below is greedy: the highest score wins, after the penalties.
    `repeat_last_n` is how many of the last tokens the three penalties look at; -1 is the whole context.
    `top_n_sigma` keeps the tokens whose scores are within so many standard deviations of the best. XTC drops, with
    the probability `xtc_probability`, all but the least likely of the tokens that are at least `xtc_threshold` likely.
    DRY lowers the score of a token that would prolong a repetition of more than `dry_allowed_length` tokens, by
    `dry_multiplier` times `dry_base` to the power of the excess. It looks at the last `dry_penalty_last_n` tokens (-1:
    all). A token that contains one of `dry_sequence_breakers` ends a repetition.
    """

    temperature: Annotated[float, Meta(le=100)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=_I32_MAX)] | None = None
    top_p: _Share | None = None
    min_p: _Chance | None = None
    typical_p: _Share | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1, le=100)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repeat_last_n: LastTokens | None = None
    xtc_probability: _Chance | None = None
    xtc_threshold: _Chance | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Meta(ge=0, le=1024)] | None = None
    dry_penalty_last_n: LastTokens | None = None
    dry_sequence_breakers: Annotated[tuple[_Breaker, ...], Meta(max_length=16)] | None = None


class SamplingParams(CommonSampling, frozen=True, kw_only=True):
    """What one request asks for. For what it leaves open, the model's recommendation counts, then the configuration.

    `seed` begins the random numbers of the request. `logit_bias` is added to the scores, by token id. No end of the
    reply is chosen before `min_tokens` tokens, and with `ignore_eos` none at all. A token of `stop_token_ids` ends the
    reply as well, also with `ignore_eos`; it is no part of the reply.
    """

    seed: int | None = None
    logit_bias: dict[int, float] = {}
    min_tokens: Annotated[int, Meta(ge=0, le=_I32_MAX)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: StopTokens = ()


class Sampling(SamplingParams, frozen=True, kw_only=True):
    """The same with every parameter settled. The default of a parameter is its value when it is off."""

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    min_tokens: int = 0
    ignore_eos: bool = False

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the scores."""
        return self.repeat_last_n != 0 and (
            self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
        )
