"""Executes plans on libllama, in the engine thread. Owns the batch, and the saved states in host memory, by key."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, assert_never

from neuron_lib.engine.sequence import Sampled
from neuron_lib.engine.step import (
    Breach,
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
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.grammar import ConstraintFailed
from neuron_lib.llama.memory import SavedState
from neuron_lib.llama.vector_context import VectorContext
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.filters import Scores

logger: logging.Logger = logging.getLogger(__name__)

__all__ = ("ContextBroken", "LlamaRunner", "Runner", "VectorRunner")


class ContextBroken(Exception):
    """The native context cannot be used any more. The process must be replaced."""


class Runner(Protocol):
    """Turns a plan into a result. `neuron_lib.testing.ScriptedRunner` does this without a model."""

    def run(self, plan: StepPlan) -> StepResult:
        """Compute the plan. Blocks. Raises `ContextBroken` if no further step is possible."""
        ...


class LlamaRunner:
    """The runner with a model. `clock` measures steps, in seconds. With `apart` every sequence has a decode call of its
    own.
    """

    def __init__(
        self,
        context: Context,
        vocab: Vocab,
        *,
        apart: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._context: Final = context
        self._apart: Final = apart
        self._memory: Final = context.memory
        self._vocab: Final = vocab
        self._batch: Final = Batch(context.n_batch)
        self._clock: Final = clock
        self._kept: Final[dict[int, SavedState]] = {}

    def run(self, plan: StepPlan) -> StepResult:
        started = self._clock()
        moved, lost, kept = 0, set[int](), list[tuple[int, int]]()
        for edit in plan.edits:
            moved += self._edit(edit, lost, kept)
        computing = self._clock()
        chunks = [chunk for chunk in plan.chunks if chunk.seq_id not in lost] if lost else plan.chunks
        status, scores = self._decode_apart(chunks) if self._apart else self._decode(chunks)
        sampled, broken = [], list[Breach]()
        if status == DecodeStatus.OK:
            for chunk in chunks:
                if chunk.checkpoint is not None:
                    self._keep(chunk.checkpoint, self._memory.checkpoint(chunk.seq_id), kept)
                if chunk.wants_logits:
                    own = [next(scores) for _ in range(1 + chunk.drafted)]
                    try:
                        sampled.append(self._sample(chunk, own))
                    except ConstraintFailed as error:
                        sampled.append(())
                        broken.append(Breach(chunk.seq_id, str(error), error.param))
                    except Exception:  # the parameters of one request must not end the engine
                        logger.exception("bug in sampling")
                        sampled.append(())
                        broken.append(Breach(chunk.seq_id, "no token could be chosen; this is a bug, please report it"))
        return StepResult(
            sampled=tuple(sampled),
            duration_s=self._clock() - computing,
            outcome=_OUTCOMES.get(status, Outcome.FAILED),
            message="" if status == DecodeStatus.OK else f"llama_decode could not compute the batch: {status.name}",
            kept=tuple(kept),
            lost=frozenset(lost),
            broken=tuple(broken),
            moved=moved,
            move_s=computing - started if moved else 0.0,
        )

    def _decode(self, chunks: Sequence[SequenceChunk]) -> tuple[DecodeStatus, Iterator[Scores]]:
        """Compute the chunks in one batch. Returns the wanted rows of scores, which are valid until the next batch."""
        if not chunks:
            return DecodeStatus.OK, iter(())  # all chunks were lost
        batch, rows = self._batch, 0
        batch.clear()
        for chunk in chunks:
            wanted = 1 + chunk.drafted if chunk.wants_logits else 0
            batch.add(chunk.seq_id, chunk.tokens, position=chunk.position, wants_logits=wanted)
            rows += wanted
        status = self._context.decode(batch)
        if status <= DecodeStatus.FATAL:
            raise ContextBroken("llama_decode reported a fatal error")
        if status == DecodeStatus.ABORTED:
            raise ContextBroken("the computation was broken off")
        return status, iter(self._context.all_logits(rows)) if rows and status == DecodeStatus.OK else iter(())

    def _decode_apart(self, chunks: Sequence[SequenceChunk]) -> tuple[DecodeStatus, Iterator[Scores]]:
        """Compute each chunk in a batch of its own, up to the first one that fails."""
        scores: list[Scores] = []
        for chunk in chunks:
            status, own = self._decode([chunk])
            if status != DecodeStatus.OK:
                return status, iter(())
            scores += [row.copy() for row in own]
        return DecodeStatus.OK, iter(scores)

    def _sample(self, chunk: SequenceChunk, rows: list[Scores]) -> tuple[Sampled, ...]:
        """The next token, and further tokens for as many drafted ones as were right."""
        sampler = chunk.sequence.sampler
        assert sampler is not None  # this runner gets sequences with a sampler only
        sampled: list[Sampled] = []
        drafts = (*chunk.tokens[len(chunk.tokens) - chunk.drafted :], None) if chunk.drafted else (None,)
        for row, draft in zip(rows, drafts, strict=True):
            choice = sampler.sample(row)
            token, is_last = choice.token, sampler.is_complete
            sampled.append(
                Sampled(
                    token,
                    self._vocab.piece(token),
                    is_eog=token in self._vocab.eog,
                    is_last=is_last,
                    logprob=choice.logprob,
                )
            )
            if token != draft or is_last:
                break
        return tuple(sampled)

    def _edit(self, edit: Edit, lost: set[int], kept: list[tuple[int, int]]) -> int:
        """Change the memory. Returns the number of tokens whose state was copied. Adds to `lost` and `kept`."""
        memory, moved = self._memory, 0
        match edit:
            case Truncate(seq_id, length):
                _note(memory.truncate(seq_id, length), seq_id, lost)
            case Copy(source, target, length):
                moved = 0 if memory.shares_cells else memory.length(source)
                _note(source not in lost and memory.copy(source, target, length), target, lost)
            case Save(seq_id, key):
                moved = memory.length(seq_id)
                self._keep(key, memory.save(seq_id), kept)
            case Restore(key, seq_id, length):
                moved = length
                state = self._kept.get(key)
                is_back = state is not None and memory.restore(state, seq_id) and memory.length(seq_id) == length
                _note(is_back, seq_id, lost)
            case Rewind(seq_id, key, length):
                state = self._kept.get(key)
                _note(state is not None and memory.rewind(seq_id, state, length), seq_id, lost)
            case Drop(key):
                self._kept.pop(key, None)
            case Swap(first, second):
                moved = memory.length(first) + memory.length(second)
                if not memory.swap(first, second):
                    lost |= {first, second}
                elif (first in lost) != (second in lost):
                    lost ^= {first, second}
            case _:
                assert_never(edit)
        return moved

    def _keep(self, key: int, state: SavedState, kept: list[tuple[int, int]]) -> None:
        if state.nbytes:
            self._kept[key] = state
            kept.append((key, state.nbytes))


class VectorRunner:
    """Makes vectors, in the engine thread. `clock` measures steps, in seconds."""

    def __init__(self, context: VectorContext, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._context: Final = context
        self._batch: Final = Batch(context.n_batch)
        self._clock: Final = clock

    def run(self, plan: StepPlan) -> StepResult:
        """See `Runner`. The edits are of no use to a context that remembers nothing."""
        started = self._clock()
        self._batch.clear()
        for chunk in plan.chunks:
            self._batch.add(chunk.seq_id, chunk.tokens, position=chunk.position, wants_logits=len(chunk.tokens))
        status, vectors = self._context.compute(self._batch, [chunk.seq_id for chunk in plan.chunks])
        if status <= DecodeStatus.FATAL or status == DecodeStatus.ABORTED:
            raise ContextBroken(f"the computation of vectors ended with {status.name}")
        return StepResult(
            sampled=(),
            vectors=tuple(vector.astype("<f4").tobytes() for vector in vectors),
            duration_s=self._clock() - started,
            outcome=_OUTCOMES.get(status, Outcome.FAILED),
            message="" if status == DecodeStatus.OK else f"llama_decode could not compute the batch: {status.name}",
        )


_OUTCOMES: Final = {DecodeStatus.OK: Outcome.COMPUTED, DecodeStatus.NO_CELLS: Outcome.NO_CELLS}


def _note(is_done: bool, seq_id: int, lost: set[int]) -> None:  # noqa: FBT001 - what has just been returned
    if not is_done:
        lost.add(seq_id)
