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
    """Remove the state of a sequence behind its first `length` tokens."""

    seq_id: int
    length: int


@dataclass(slots=True, frozen=True)
class Copy:
    """Copy the state of the first `length` tokens of `source` to `target`, which is empty."""

    source: int
    target: int
    length: int


@dataclass(slots=True, frozen=True)
class Save:
    """Copy the whole state of a sequence to host memory, under the number `key`."""

    seq_id: int
    key: int


@dataclass(slots=True, frozen=True)
class Restore:
    """Copy a saved sequence of `length` tokens from host memory to `seq_id`, which is empty. The saved copy stays."""

    key: int
    seq_id: int
    length: int


@dataclass(slots=True, frozen=True)
class Rewind:
    """Turn a sequence back to its first `length` tokens, with the checkpoint `key` that was taken there."""

    seq_id: int
    key: int
    length: int


@dataclass(slots=True, frozen=True)
class Drop:
    """Free the host memory of a saved sequence or of a checkpoint."""

    key: int


@dataclass(slots=True, frozen=True)
class Swap:
    """Exchange the state of two sequences."""

    first: int
    second: int


Edit: TypeAlias = Truncate | Copy | Save | Restore | Rewind | Drop | Swap
"""A change of the native memory. The edits of a plan are done in their order, before anything is computed."""


class SequenceChunk(Struct, frozen=True):
    """The part of one sequence in the batch: consecutive tokens from `position` on.

    With `wants_logits` the chunk ends with the last known token, so the next token is sampled after it. The last
    `drafted` tokens are guesses. They are checked by sampling, one after the other, up to the first wrong one.
    `checkpoint` is the number under which the state after the chunk is to be kept, None if it is not.
    """

    sequence: Sequence
    seq_id: int
    tokens: list[int]
    position: int
    wants_logits: bool
    drafted: int = 0
    checkpoint: int | None = None


class StepPlan(Struct, frozen=True):
    """Do the `edits` first, then compute `chunks` in one batch. `began` are the requests that begin with this step."""

    edits: tuple[Edit, ...]
    chunks: tuple[SequenceChunk, ...]
    began: tuple[Request, ...] = ()

    @property
    def token_count(self) -> int:
        """The number of tokens in the batch."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


class Outcome(Enum):
    """How the computation of a batch ended."""

    COMPUTED = auto()
    NO_CELLS = auto()
    """Nothing was computed, because libllama found no cells for the batch. A smaller batch may find them."""
    FAILED = auto()
    """Nothing was computed, and the same batch would fail again."""


class Breach(Struct, frozen=True):
    """Why a sequence cannot go on. `param` names the field of the request that is the cause, None if none is."""

    seq_id: int
    message: str
    param: str | None = None


class StepResult(Struct, frozen=True):
    """What came of a plan.

    `sampled` has one tuple for each computed chunk with `wants_logits`, in their order: the next token, and one more
    for each drafted token that was right. The tuple of a broken sequence is empty. `vectors` has the vector of each
    chunk, in their order, as float32, little-endian, where vectors are made. `kept` has key and bytes of each
    saved sequence and checkpoint; one that is missing could not be kept. `lost` are the `seq_id`s whose edits
    failed: their slots are empty now, and their chunks were not computed. `broken` are the sequences that cannot go on.
    Copying the state of `moved` tokens took `move_s` seconds, and everything else took `duration_s`. `message` says
    why a batch was not computed.
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
