"""Choosing the next token from a row of scores."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from neuron_lib.llama.bindings import lib
from neuron_lib.llama.context import Context
from neuron_lib.types import Sampling

__all__ = ("SamplerChain",)

_KEEP_ONE: Final = 1
_RANDOM_SEED: Final = 0xFFFFFFFF  # libllama reads this value as "draw a seed"; a client's seed must never become it


class SamplerChain:
    """The native chain of one sequence, or nothing at all where the highest score simply wins."""

    def __init__(self, sampling: Sampling, *, n_vocab: int, history: Sequence[int]) -> None:
        """`history` is the prompt: its last `repeat_last_n` tokens count for the penalties."""
        self._chain: Any = None
        if sampling.is_greedy and not sampling.has_penalties:
            return
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = lib.llama_sampler_chain_init(params)
        for sampler in _samplers(sampling, n_vocab):
            lib.llama_sampler_chain_add(self._chain, sampler)
        if sampling.has_penalties:
            window = len(history) if sampling.repeat_last_n < 0 else sampling.repeat_last_n
            for token in history[len(history) - min(window, len(history)) :]:
                lib.llama_sampler_accept(self._chain, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the native chain; safe to repeat."""
        if self._chain:
            lib.llama_sampler_free(self._chain)
        self._chain = None

    def sample(self, context: Context, row: int) -> int:
        """The token chosen for batch index `row`; the chain remembers it for the penalties."""
        if self._chain is None:
            return int(context.logits(row).argmax())
        return int(lib.llama_sampler_sample(self._chain, context.pointer, row))


def _samplers(sampling: Sampling, n_vocab: int) -> list[Any]:
    """Native samplers in llama.cpp's order: penalties, top-k, top-p, min-p, temperature, draw."""
    chain: list[Any] = []
    if sampling.has_penalties:
        chain.append(
            lib.llama_sampler_init_penalties(
                n_vocab,
                sampling.repeat_last_n,
                sampling.repetition_penalty,
                sampling.frequency_penalty,
                sampling.presence_penalty,
            )
        )
    if sampling.is_greedy:
        return [*chain, lib.llama_sampler_init_greedy()]
    if sampling.top_k > 0:
        chain.append(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1.0:
        chain.append(lib.llama_sampler_init_top_p(sampling.top_p, _KEEP_ONE))
    if sampling.min_p > 0.0:
        chain.append(lib.llama_sampler_init_min_p(sampling.min_p, _KEEP_ONE))
    chain.append(lib.llama_sampler_init_temp(sampling.temperature))
    folded = (sampling.seed ^ (sampling.seed >> 32)) & 0xFFFFFFFF
    chain.append(lib.llama_sampler_init_dist(folded if folded != _RANDOM_SEED else 0))
    return chain
