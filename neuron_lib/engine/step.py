"""One turn of the engine as data: what to compute, and what came of it. Pure."""

from dataclasses import dataclass

from neuron_lib.engine.sequence import Sequence

__all__ = ("Sampled", "SequenceChunk", "StepPlan", "StepResult")


@dataclass(slots=True, frozen=True)
class SequenceChunk:
    """A sequence's share of the batch: consecutive tokens from `position` on.

    `wants_logits` is set when the chunk ends the sequence's known tokens, so that the next one can be sampled.
    """

    sequence: Sequence
    seq_id: int
    tokens: list[int]
    position: int
    wants_logits: bool


@dataclass(slots=True, frozen=True)
class StepPlan:
    """Free the cells of `vacated` slots first, then compute `chunks` in one batch."""

    vacated: tuple[int, ...]
    chunks: tuple[SequenceChunk, ...]

    @property
    def token_count(self) -> int:
        """Tokens in the batch."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(slots=True, frozen=True)
class Sampled:
    """The next token of a sequence; `piece` are its bytes, empty for control tokens."""

    token: int
    piece: bytes
    is_eog: bool


@dataclass(slots=True, frozen=True)
class StepResult:
    """What a plan brought: one `Sampled` per chunk that wanted logits, in order, or `failure` and nothing."""

    sampled: tuple[Sampled, ...]
    duration_s: float
    failure: str | None = None
