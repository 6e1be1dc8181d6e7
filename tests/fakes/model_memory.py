"""A runner without a model that remembers tokens as libllama remembers attention, and refuses what libllama would.

The next token is a function of the tokens in memory alone, so a sequence whose cells hold anything but its own text
writes another text than it would alone.
"""

from neuron_lib.engine.sequence import Sampled
from neuron_lib.engine.step import (
    Copy,
    Drop,
    Edit,
    Outcome,
    Restore,
    Rewind,
    Save,
    SequenceChunk,
    StepPlan,
    StepResult,
    Swap,
    Truncate,
)

EOG = -1


class Cell:
    """What one token left in memory; the same object in all sequences that share it."""

    __slots__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token = token


def next_token(tokens: list[int], *, length: int) -> int:
    """The token after `tokens`; a reply ends of itself when the text is a multiple of `length` long."""
    if len(tokens) % length == 0:
        return EOG
    return (3 * tokens[-1] + tokens[-2] + 1) % 5 if len(tokens) > 1 else tokens[-1]


def text_alone(prompt: list[int], *, max_tokens: int, n_ctx: int, length: int) -> list[int]:
    """The reply that a prompt gets from an idle machine."""
    tokens = prompt.copy()
    while True:
        token = next_token(tokens, length=length)
        if token == EOG:
            break
        tokens.append(token)
        if len(tokens) - len(prompt) >= max_tokens or len(tokens) >= n_ctx:
            break
    return tokens[len(prompt) :]


class ModelMemory:
    """Runs plans. `faults` for the next plan: "no cells", "failed", "lost" (edits of host memory), "full" (host)."""

    def __init__(
        self, *, seats: int, cells: int, is_pooled: bool, shares: bool, can_truncate: bool, length: int = 1 << 30
    ) -> None:
        self.sequences: list[list[Cell]] = [[] for _ in range(seats)]
        self.kept: dict[int, list[int]] = {}
        self.fault: str | None = None
        self._cells = cells
        self._is_pooled = is_pooled
        self._shares = shares
        self._can_truncate = can_truncate
        self._length = length

    @property
    def used(self) -> int:
        """Cells in use, shared ones counted once."""
        return len({id(cell) for sequence in self.sequences for cell in sequence})

    def tokens(self, seq_id: int) -> list[int]:
        """What a sequence holds."""
        return [cell.token for cell in self.sequences[seq_id]]

    def run(self, plan: StepPlan) -> StepResult:
        lost: set[int] = set()
        for edit in plan.edits:
            loser = self._edit(edit, lost)
            lost |= set() if loser is None else {loser}
        chunks = [chunk for chunk in plan.chunks if chunk.seq_id not in lost]
        kept = [(e.key, len(self.kept[e.key])) for e in plan.edits if isinstance(e, Save) and e.key in self.kept]
        if self.fault in {"no cells", "failed"}:
            outcome = Outcome.NO_CELLS if self.fault == "no cells" else Outcome.FAILED
            return StepResult((), 0.01, outcome, self.fault, kept=tuple(kept), lost=frozenset(lost))
        sampled = []
        for chunk in chunks:
            before = self.sequences[chunk.seq_id]
            assert [cell.token for cell in before] == chunk.sequence.tokens[: chunk.position], "cells of another text"
            before.extend(Cell(token) for token in chunk.tokens)
            if chunk.checkpoint is not None and self.fault != "full":
                self.kept[chunk.checkpoint] = self.tokens(chunk.seq_id)
                kept.append((chunk.checkpoint, len(self.kept[chunk.checkpoint])))
            if chunk.wants_logits:
                sampled.append(self._sample(chunk))
        self._check_capacity()
        duration_s = 0.01 + 0.001 * sum(len(chunk.tokens) for chunk in chunks)
        return StepResult(
            tuple(sampled),
            duration_s,
            kept=tuple(kept),
            lost=frozenset(lost),
            moved=1,
            move_s=1e-6,
        )

    def _sample(self, chunk: SequenceChunk) -> tuple[Sampled, ...]:
        held = self.tokens(chunk.seq_id)
        sampled = []
        for wrong in range(chunk.drafted, -1, -1):
            known = held[: len(held) - wrong]
            token = next_token(known, length=self._length)
            sampled.append(Sampled(token, b"" if token == EOG else b"x", is_eog=token == EOG))
            if wrong and token != held[len(held) - wrong]:
                break
        return tuple(sampled)

    def _edit(self, edit: Edit, lost: set[int]) -> int | None:  # noqa: C901 - one case for each edit
        """Do it; the sequence that has nothing now because of it, if any. What is lost already can only be cleared."""
        match edit:
            case Truncate(seq_id, length):
                held = self.sequences[seq_id]
                assert self._can_truncate or seq_id in lost or length in {0, len(held)}, "this memory cannot be cut"
                assert seq_id in lost or length <= len(held)
                del held[length:]
            case Copy(source, target, length):
                assert not self.sequences[target], "the target of a copy is not empty"
                if source in lost:
                    return target
                assert self._can_truncate or length == len(self.sequences[source]), "this memory is copied whole"
                cells = self.sequences[source][:length]
                assert len(cells) == length
                self.sequences[target] = cells if self._shares else [Cell(cell.token) for cell in cells]
            case Save(seq_id, key):
                assert key not in self.kept
                if self.fault != "full":
                    self.kept[key] = self.tokens(seq_id)
            case Restore(key, seq_id, length):
                assert not self.sequences[seq_id], "the target of a restore is not empty"
                if self.fault == "lost" or (self.fault == "full" and key not in self.kept):
                    return seq_id
                assert len(self.kept[key]) == length
                self.sequences[seq_id] = [Cell(token) for token in self.kept[key]]
            case Rewind(seq_id, key, length):
                held = self.sequences[seq_id]
                assert not self._can_truncate
                if self.fault == "lost" or seq_id in lost:
                    held.clear()
                    return seq_id
                assert self.kept[key] == [cell.token for cell in held[:length]], "a checkpoint of another text"
                del held[length:]
            case Drop(key):
                self.kept.pop(key, None)
            case Swap(first, second):
                places = self.sequences
                places[first], places[second] = places[second], places[first]
                if (first in lost) != (second in lost):
                    lost ^= {first, second}
        return None

    def _check_capacity(self) -> None:
        if self._is_pooled:
            assert self.used <= self._cells
        else:
            assert all(len(sequence) <= self._cells for sequence in self.sequences)
