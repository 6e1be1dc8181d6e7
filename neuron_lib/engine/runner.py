"""Executes plans on libllama, in the engine thread. Owns the batch and one sampler chain per slot."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from neuron_lib.engine.step import Sampled, SequenceChunk, StepPlan, StepResult
from neuron_lib.llama.batch import Batch
from neuron_lib.llama.context import Context, DecodeStatus
from neuron_lib.llama.sampler import SamplerChain
from neuron_lib.llama.vocab import Vocab

__all__ = ("ContextBroken", "LlamaRunner", "Runner")


class ContextBroken(Exception):
    """The native context is unusable; the process must be replaced."""


class Runner(Protocol):
    """Turns a plan into a result. `neuron_lib.testing.ScriptedRunner` does it without a model."""

    def run(self, plan: StepPlan) -> StepResult:
        """Compute the plan; blocks. Raises `ContextBroken` when there can be no next step."""
        ...


class LlamaRunner:
    """The real one. `clock` measures steps, in seconds."""

    def __init__(self, context: Context, vocab: Vocab, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._context: Final = context
        self._vocab: Final = vocab
        self._batch: Final = Batch(context.n_batch)
        self._clock: Final = clock
        self._chains: dict[int, SamplerChain] = {}  # by seq_id, from a sequence's first token on

    def run(self, plan: StepPlan) -> StepResult:
        started = self._clock()
        for seq_id in plan.vacated:
            self._context.clear_sequence(seq_id)
            self._chains.pop(seq_id, None)
        self._batch.clear()
        ends = [
            self._batch.add(chunk.seq_id, chunk.tokens, position=chunk.position, wants_logits=chunk.wants_logits)
            for chunk in plan.chunks
        ]
        status = self._context.decode(self._batch)
        if status <= DecodeStatus.FATAL:
            raise ContextBroken("llama_decode reported a fatal error")
        if status != DecodeStatus.OK:
            return StepResult((), self._clock() - started, f"llama_decode could not compute the batch: {status.name}")
        sampled = tuple(
            self._sample(chunk, row) for chunk, row in zip(plan.chunks, ends, strict=True) if chunk.wants_logits
        )
        return StepResult(sampled, self._clock() - started)

    def _sample(self, chunk: SequenceChunk, row: int) -> Sampled:
        chain = self._chains.get(chunk.seq_id)
        if chain is None:
            chain = SamplerChain(chunk.sequence.sampling, history=chunk.sequence.prompt)
            self._chains[chunk.seq_id] = chain
        token = chain.sample(self._context.logits(row))
        return Sampled(token, self._vocab.piece(token), self._vocab.is_eog(token))
