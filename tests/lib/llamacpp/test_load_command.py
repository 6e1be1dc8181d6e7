from pathlib import Path
from typing import Any

import pytest

from neuron_lib.config import AdmissionConfig, DownloadConfig, LlamaCppConfig, PromptCacheConfig
from neuron_lib.llamacpp.harness import load_command, model_store
from neuron_lib.placement import default_threads
from neuron_lib.sources.store import LocalModel
from neuron_lib.types import ContextParams

MODEL = LocalModel(path=Path("/models/m.gguf"))
CONTEXT: dict[str, Any] = {
    "n_ctx": 2048,
    "n_batch": 256,
    "n_ubatch": 128,
    "threads": 3,
    "gpu_layers": 7,
    "flash_attn": "off",
    "kv_type_k": "q8_0",
    "kv_type_v": "q4_0",
    "kv_layout": "unified",
    "kv_cells": 4096,
    "swa_full": True,
}


def test_an_engine_is_told_what_is_configured() -> None:
    assert CONTEXT.keys() == set(ContextParams.__struct_fields__)
    config = LlamaCppConfig(
        **CONTEXT,
        speculation="off",
        prompt_cache=PromptCacheConfig(enabled=False, host_mb=3),
        target_step_ms=50,
        admission=AdmissionConfig(max_in_flight=5),
    )
    load = load_command(config, MODEL, environ={})
    assert (load.path, load.seats, load.speculation, load.target_step_s) == ("/models/m.gguf", 5, "off", 0.05)
    assert load.context == ContextParams(**CONTEXT)
    assert (load.prompt_cache, load.host_cache_bytes) == (False, 3 << 20)


def test_no_threads_means_one_for_each_core() -> None:
    assert load_command(LlamaCppConfig(threads=0), MODEL, environ={}).context.threads == default_threads()


@pytest.mark.parametrize("n_ctx", [0, 512])
def test_the_context_of_a_models_own_entry_goes_before_that_of_all(n_ctx: int) -> None:
    local = LocalModel(path=MODEL.path, n_ctx=n_ctx)
    assert load_command(LlamaCppConfig(n_ctx=2048), local, environ={}).context.n_ctx == n_ctx


@pytest.mark.parametrize(
    ("switch", "uses"), [(None, True), ("1", True), ("0", False), ("False", False), ("no", False), ("OFF", False)]
)
def test_a_switch_in_the_environment_turns_the_models_chat_template_off(switch: str | None, uses: bool) -> None:  # noqa: FBT001
    environ = {} if switch is None else {"NEURON_USE_CHAT_TEMPLATE": switch}
    assert load_command(LlamaCppConfig(), MODEL, environ=environ).use_chat_template is uses


def test_the_format_of_tools_of_an_entry_goes_to_the_engine() -> None:
    assert load_command(LlamaCppConfig(), MODEL, environ={}).tool_format == ""
    local = LocalModel(path=MODEL.path, tool_format="hermes")
    assert load_command(LlamaCppConfig(), local, environ={}).tool_format == "hermes"


def test_an_operator_s_chat_template_goes_to_the_engine_as_text_whatever_the_switch_says() -> None:
    assert load_command(LlamaCppConfig(), MODEL, environ={}).chat_template is None
    environ = {"NEURON_USE_CHAT_TEMPLATE": "0"}
    local = LocalModel(path=MODEL.path, chat_template="{{ 1 }}")
    assert load_command(LlamaCppConfig(), local, environ=environ).chat_template == "{{ 1 }}"


def test_a_store_keeps_to_the_limits_of_the_configuration() -> None:
    limits = DownloadConfig(deadline_secs=7, parallel=2)
    assert model_store(LlamaCppConfig(download=limits), models=(), environ={})._limits == limits
