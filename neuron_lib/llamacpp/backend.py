"""The llama.cpp backend as a service offers it. Importing this loads neither llama.cpp nor the harness."""

from typing import Final

from neuron_lib.backend import Backend, HarnessSetup
from neuron_lib.config import LlamaCppConfig
from neuron_lib.harness import Harness
from neuron_lib.placement import MORE_THAN_ALL_GPUS, device_indices
from neuron_lib.types import ModelSpec

__all__ = ("LLAMACPP",)


def _make(config: LlamaCppConfig, setup: HarnessSetup) -> Harness:
    from neuron_lib.llamacpp.harness import LlamaCppHarness  # noqa: PLC0415 - takes longer than all that a probe needs

    return LlamaCppHarness(
        config,
        models=setup.models,
        environ=setup.environ,
        gpu_memory_mb=setup.gpu_memory_mb,
        max_prompt_tokens=setup.max_prompt_tokens,
        ends_with_thread=setup.ends_with_thread,
        read=setup.read,
        host_limit_bytes=setup.host_limit_bytes,
    )


def _check_spec(spec: ModelSpec) -> None:
    device_indices(spec, gpu_count=MORE_THAN_ALL_GPUS)


LLAMACPP: Final = Backend(
    name="llamacpp",
    struct=LlamaCppConfig,
    # The names and keys of existing fleets' files and catalogues, which were written for another engine.
    aliases=("candle",),
    older_keys={"prefix_cache.budget_mb": "host_mb", "prefix_cache": "prompt_cache"},
    idle_keys=(
        "prompt_cache.max_entries",
        # The plan of a load counts the bytes that these keys estimate.
        "context_limit.bootstrap_prefill_tok_per_sec",
        "context_limit.activation_headroom_mb",
        "context_limit.min_free_floor_mb",
        "context_limit.output_reserve_tokens",
        "image",
        "split_mode",
    ),
    make=_make,
    check_spec=_check_spec,
)
