"""One step of the engine as data: what to do to the memory, what to compute, and what came of it. Pure.

Structs that are made in each step are msgspec ones: making one takes a tenth of the time of a frozen dataclass.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from msgspec import Struct

from neuron_lib.engine.line import Request
from neuron_lib.engine.sequence import Sampled, Sequence

__all__ = (
    "Breach",
    "Copy",
    "Drop",
    "Edit",
    "Outcome",
    "Restore",
    "Rewind",
    "Save",
    "SequenceChunk",
    "StepPlan",
    "StepResult",
    "Swap",
    "Truncate",
)


@dataclass(slots=True, frozen=True)
class Truncate:
    """Forget what a sequence holds behind its first `length` tokens."""

    seq_id: int
    length: int


@dataclass(slots=True, frozen=True)
class Copy:
    """Give the first `length` tokens of `source` to `target`, which is empty."""

    source: int
    target: int
    length: int


@dataclass(slots=True, frozen=True)
class Save:
    """Keep a copy of a whole sequence in host memory under the number `key`."""

    seq_id: int
    key: int


@dataclass(slots=True, frozen=True)
class Restore:
    """Bring a saved sequence of `length` tokens back into `seq_id`, which is empty; the copy in host memory stays."""

    key: int
    seq_id: int
    length: int


@dataclass(slots=True, frozen=True)
class Rewind:
    """Take a sequence back to its first `length` tokens, where the checkpoint `key` was taken."""

    seq_id: int
    key: int
    length: int


@dataclass(slots=True, frozen=True)
class Drop:
    """Free what is kept in host memory under `key`, a saved sequence or a checkpoint."""

    key: int


@dataclass(slots=True, frozen=True)
class Swap:
    """Let two sequences change places."""

    first: int
    second: int


Edit: TypeAlias = Truncate | Copy | Save | Restore | Rewind | Drop | Swap
"""A change of the native memory, in the order given and before anything is computed."""


class SequenceChunk(Struct, frozen=True):
    """A sequence's share of the batch: consecutive tokens from `position` on.

    With `wants_logits` the chunk ends the sequence's known tokens, so that the next one can be sampled; the last
    `drafted` tokens are guesses that are sampled, too, as long as they turn out right. With `wants_vector` the chunk is
    a whole prompt, of which the vector is wanted. `checkpoint` is the number under which the state after the chunk is
    to be kept.
    """

    sequence: Sequence
    seq_id: int
    tokens: list[int]
    position: int
    wants_logits: bool
    wants_vector: bool = False
    drafted: int = 0
    checkpoint: int | None = None


class StepPlan(Struct, frozen=True):
    """Do the `edits` first, then compute `chunks` in one batch. `began` are the requests that begin with this step."""

    edits: tuple[Edit, ...]
    chunks: tuple[SequenceChunk, ...]
    began: tuple[Request, ...] = ()

    @property
    def token_count(self) -> int:
        """Tokens in the batch."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


class Outcome(Enum):
    """What became of a batch."""

    COMPUTED = auto()
    NO_CELLS = auto()
    """Nothing was computed, because libllama found no room for it; a smaller batch may do."""
    FAILED = auto()
    """Nothing was computed, and nothing would be the next time."""


class Breach(Struct, frozen=True):
    """Why a sequence cannot go on. `param` is the request's field that is to blame, None if none is."""

    seq_id: int
    message: str
    param: str | None = None


class StepResult(Struct, frozen=True):
    """What a plan brought.

    `sampled` holds, for each computed chunk that wanted logits and in their order, the next tokens: one, and one more
    for each drafted token that was right. `vectors` holds those of the computed chunks that wanted one, in their order,
    as float32, little-endian. `kept` are the bytes that saved sequences and checkpoints take, by key; a key
    that is missing could not be kept. `lost` are the sequences whose edits failed: they hold nothing now, and their
    chunks were not computed. `broken` are the sequences that cannot go on (they have nothing in `sampled`).
    `moved` tokens were copied in `move_s`; `duration_s` is the time of everything else.
    """

    sampled: tuple[tuple[Sampled, ...], ...]
    duration_s: float
    outcome: Outcome = Outcome.COMPUTED
    message: str = ""
    kept: tuple[tuple[int, int], ...] = ()
    lost: frozenset[int] = frozenset()
    vectors: tuple[bytes, ...] = ()
    broken: tuple[Breach, ...] = ()
    moved: int = 0
    move_s: float = 0.0
