"""How a text is to be written, and who asks: the parts of a `Task`, free of any wire format."""

from typing import Final, Literal

from msgspec import Struct

__all__ = ("Grammar", "Principal", "Sampling", "SamplingParams")

DRY_SEQUENCE_BREAKERS: Final = ("\n", ":", '"', "*")
"""Texts that end a repetition in the eyes of DRY, where nobody says otherwise."""


class SamplingParams(Struct, frozen=True, kw_only=True):
    """How to choose tokens. None means "not asked for": the model's own recommendation, then the default, decides.

    `temperature` ≤ 0 is greedy: the highest score wins, after the penalties. `repeat_last_n` is the window of all
    three penalties, in tokens; -1 is the whole context.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    logit_bias: dict[int, float] = {}
    min_tokens: int | None = None
    ignore_eos: bool | None = None


class Sampling(Struct, frozen=True, kw_only=True):
    """How to choose tokens, with nothing left open; the defaults are "off".

    `top_n_sigma` keeps what scores within so many standard deviations of the best. XTC drops, with
    `xtc_probability`, all but the least likely of the tokens that are at least `xtc_threshold` likely. DRY punishes a
    token that would prolong a repetition of more than `dry_allowed_length` tokens by `dry_multiplier` times
    `dry_base` to the power of the excess, looking back `dry_penalty_last_n` tokens (-1: all). `logit_bias` is added
    to the scores by token id. Before `min_tokens` tokens no end of the reply is chosen, with `ignore_eos` never.
    """

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = DRY_SEQUENCE_BREAKERS
    logit_bias: dict[int, float] = {}
    min_tokens: int = 0
    ignore_eos: bool = False

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change the scores."""
        return self.repeat_last_n != 0 and (
            self.repetition_penalty != 1.0 or self.frequency_penalty != 0.0 or self.presence_penalty != 0.0
        )


class Grammar(Struct, frozen=True):
    """What the text of a reply must look like: a JSON schema, a regular expression, or a grammar in Lark's notation.

    `param` is what the client calls it, for errors; None stands for the usual name of its kind.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    param: str | None = None


class Principal(Struct, frozen=True):
    """Who asks, as stamped by the gateway; None in a request means anonymous."""

    account_id: str
    key_id: str
