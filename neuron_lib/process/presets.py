"""What is known of programs that serve models, so that an operator need not say it. A table, and pure.

The programs' own documents say what their options mean. `docs/how-to/use-another-engine.md` says which of the presets
were run, and which are only text.
"""

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from neuron_lib.process.entry import Format, PresetName
from neuron_lib.upstream.api import LLAMA_CPP_PYTHON, LLAMA_SERVER, OPENAI, SGLANG, VLLM, UpstreamApi

__all__ = ("PRESETS", "UNKNOWN", "Preset")


class Preset(Struct, frozen=True, kw_only=True):
    """A program. The fields are the keys of `ProcessEntry` with the same names.

    `sleep_args` and `sleep_env` are what the program needs to be able to sleep,
    by POST of the first of `sleep_paths`; POST of the second one wakes it. `modules` are the Python modules that a
    program in this service's own Python needs, and `packages` says what to install for them.
    """

    command: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = {}
    env: Mapping[str, str] = {}
    pass_prefixes: tuple[str, ...] = ()
    formats: tuple[Format, ...] = ("safetensors",)
    model_name: str = "{model_id}"
    capabilities: tuple[str, ...] = ("text",)
    ready_path: str = "/health"
    health_path: str = "/health"
    api: UpstreamApi = UpstreamApi(name="unknown", max_tokens="max_tokens")
    max_in_flight: int = 8
    sleep_args: tuple[str, ...] = ()
    sleep_env: Mapping[str, str] = {}
    sleep_paths: tuple[str, str] = ("/sleep", "/wake_up")
    modules: tuple[str, ...] = ()
    packages: str = ""


UNKNOWN: Final = Preset(ready_path="/v1/models", health_path="/v1/models")
"""What holds for a program without a preset."""

PRESETS: Final[Mapping[PresetName, Preset]] = MappingProxyType(
    {
        "llama-server": Preset(
            command=(
                *("llama-server", "--model", "{path}", "--host", "{socket}", "--alias", "{model_id}"),
                *("--parallel", "{max_in_flight}", "--no-webui"),
            ),
            options={
                "n_ctx_total": ("--ctx-size", "{n_ctx_total}"),
                "chat_template": ("--chat-template-file", "{chat_template}"),
            },
            env={"LLAMA_API_KEY": "{api_key}"},
            formats=("gguf",),
            capabilities=("text", "tools"),
            api=LLAMA_SERVER,
            max_in_flight=4,
        ),
        "llama-cpp-python": Preset(
            command=(
                *(sys.executable, "-m", "llama_cpp.server", "--model", "{path}", "--model_alias", "{model_id}"),
                # Otherwise a request ends the one that runs.
                *("--host", "{host}", "--port", "{port}", "--interrupt_requests", "false"),
            ),
            options={"n_ctx": ("--n_ctx", "{n_ctx}")},
            env={"API_KEY": "{api_key}"},
            formats=("gguf",),
            # The list of models waits for the request that runs. This page does not.
            ready_path="/openapi.json",
            health_path="/openapi.json",
            api=LLAMA_CPP_PYTHON,
            max_in_flight=1,
            modules=("llama_cpp", "fastapi", "pydantic_settings", "sse_starlette", "starlette_context", "uvicorn"),
            packages="llama-cpp-python[server]",
        ),
        "vllm": Preset(
            command=(
                *("vllm", "serve", "{path}", "--uds", "{socket}", "--served-model-name", "{model_id}"),
                *("--max-num-seqs", "{max_in_flight}"),
            ),
            options={
                "n_ctx": ("--max-model-len", "{n_ctx}"),
                "chat_template": ("--chat-template", "{chat_template}"),
                "tensor_parallel": ("--tensor-parallel-size", "{tensor_parallel}"),
            },
            env={"VLLM_API_KEY": "{api_key}"},
            pass_prefixes=("VLLM_", "TORCH_", "TRITON_", "NCCL_"),
            sleep_args=("--enable-sleep-mode",),
            sleep_env={"VLLM_SERVER_DEV_MODE": "1"},
            api=VLLM,
            max_in_flight=64,
        ),
        "sglang": Preset(
            command=(
                *(sys.executable, "-m", "sglang.launch_server", "--model-path", "{path}"),
                *("--host", "{host}", "--port", "{port}", "--api-key", "{api_key}"),
                *("--served-model-name", "{model_id}", "--max-running-requests", "{max_in_flight}"),
            ),
            options={
                "n_ctx": ("--context-length", "{n_ctx}"),
                "chat_template": ("--chat-template", "{chat_template}"),
                "tensor_parallel": ("--tp", "{tensor_parallel}"),
            },
            pass_prefixes=("SGLANG_", "TORCH_", "TRITON_", "NCCL_"),
            modules=("sglang",),
            packages="sglang[all]",
            sleep_args=("--enable-memory-saver",),
            sleep_paths=("/release_memory_occupation", "/resume_memory_occupation"),
            api=SGLANG,
            max_in_flight=64,
        ),
        "tabbyapi": Preset(
            command=(
                *(sys.executable, "main.py", "--host", "{host}", "--port", "{port}", "--disable-auth", "true"),
                *("--model-dir", "{path_folder}", "--model-name", "{path_name}"),
            ),
            options={"n_ctx": ("--max-seq-len", "{n_ctx}")},
            model_name="{path_name}",
            api=UpstreamApi(
                name="tabbyapi",
                sampling={
                    **OPENAI.sampling,
                    **{name: name for name in ("top_k", "min_p", "repetition_penalty")},
                },
                max_tokens="max_tokens",
                reasoning_effort=False,
                suffix=False,
            ),
        ),
        "whisper-server": Preset(
            command=(
                *("whisper-server", "--model", "{path}", "--host", "{host}", "--port", "{port}"),
                *("--inference-path", "/v1/audio/transcriptions"),
            ),
            formats=("file",),
            capabilities=(),
            max_in_flight=1,
        ),
    }
)
