"""Which parameters an upstream knows beside those of OpenAI's API, and what it calls them. Pure data.

What an upstream does not know is refused by its name before anything is sent, because servers ignore in silence what
they do not know. A backend may make an `UpstreamApi` of its own.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct

__all__ = (
    "APIS",
    "LLAMA_CPP_PYTHON",
    "LLAMA_SERVER",
    "NEURON",
    "OPENAI",
    "OTHER",
    "SGLANG",
    "VLLM",
    "UpstreamApi",
)

_OPENAI_SAMPLING: Final = {
    name: name for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "logit_bias")
}
_LLAMA_SAMPLING: Final = {
    name: name
    for name in (
        "top_k",
        "min_p",
        "typical_p",
        "top_n_sigma",
        "repeat_last_n",
        "xtc_probability",
        "xtc_threshold",
        "dry_multiplier",
        "dry_base",
        "dry_allowed_length",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "ignore_eos",
    )
}
_GPU_SAMPLING: Final = {
    **_OPENAI_SAMPLING,
    **{name: name for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos")},
}
"""What vLLM and SGLang know."""


class UpstreamApi(Struct, frozen=True, kw_only=True):
    """What one kind of server takes. The defaults are OpenAI's own API.

    `sampling` has the fields of `SamplingParams` that the server knows, with its names for them. `max_tokens` is the
    field for the length of a chat's reply. `grammars` has, by the kind of a `Grammar` other than a JSON schema, the
    field for it; a dot leads into an object. `schema_in_completions` says whether `response_format` counts for
    completions too. `template_kwargs` is the field for arguments of the chat template, and `reasoning_budget` that for
    the tokens of reasoning; "" means that there is none. `reasoning_effort`: the server knows this field.
    `continues` says what the server does with a last message of the assistant: `"always"` goes on with it, `"asked"`
    goes on where `continue_final_message` says so, `"never"` begins a new one.
    `has_usage_so_far`: each event of a stream tells the usage so far, if it is asked for. `shows_thinking`: the header
    `x-include-thinking` is known. `several_prompts`, `token_prompts`, `suffix` and `echo` say what completions can have
    beside a text, and `choices` whether several replies can be asked for. `adds_hops`: the server counts hops.
    `tokenize`, `rerank`: the server has these paths, as a neuron has them.
    """

    name: str = "openai"
    sampling: Mapping[str, str] = msgspec.field(default_factory=lambda: dict(_OPENAI_SAMPLING))
    max_tokens: str = "max_completion_tokens"
    grammars: Mapping[str, str] = {}
    schema_in_completions: bool = False
    template_kwargs: str = ""
    reasoning_budget: str = ""
    reasoning_effort: bool = True
    continues: Literal["always", "asked", "never"] = "never"
    has_usage_so_far: bool = False
    shows_thinking: bool = False
    several_prompts: bool = True
    token_prompts: bool = True
    suffix: bool = True
    echo: bool = True
    choices: bool = True
    adapters: bool = False
    tokenize: bool = False
    rerank: bool = False


OPENAI: Final = UpstreamApi()
"""OpenAI's own API."""

OTHER: Final = UpstreamApi(name="other", max_tokens="max_tokens")
"""What all servers that follow OpenAI's API have in common. Most of them do not know `max_completion_tokens`."""

NEURON: Final = UpstreamApi(
    name="neuron",
    sampling={
        **_OPENAI_SAMPLING,
        **_LLAMA_SAMPLING,
        **{name: name for name in ("repetition_penalty", "min_tokens", "stop_token_ids")},
    },
    max_tokens="max_tokens",
    grammars={"regex": "regex", "lark": "grammar"},
    schema_in_completions=True,
    template_kwargs="chat_template_kwargs",
    reasoning_budget="reasoning_budget",
    continues="asked",
    has_usage_so_far=True,
    shows_thinking=True,
    tokenize=True,
    rerank=True,
)
"""Another neuron."""

LLAMA_SERVER: Final = UpstreamApi(
    name="llama-server",
    sampling={**_OPENAI_SAMPLING, **_LLAMA_SAMPLING, "repetition_penalty": "repeat_penalty"},
    max_tokens="max_tokens",
    grammars={"lark": "grammar"},
    schema_in_completions=True,
    template_kwargs="chat_template_kwargs",
    continues="always",
    several_prompts=False,
    suffix=False,
    echo=False,
)
"""llama.cpp's server."""

LLAMA_CPP_PYTHON: Final = UpstreamApi(
    name="llama-cpp-python",
    sampling={
        **_OPENAI_SAMPLING,
        **{name: name for name in ("top_k", "min_p")},
        "repetition_penalty": "repeat_penalty",
    },
    max_tokens="max_tokens",
    reasoning_effort=False,
    several_prompts=False,
    token_prompts=False,
    choices=False,
)
"""The server of the package llama-cpp-python."""

VLLM: Final = UpstreamApi(
    name="vllm",
    sampling=_GPU_SAMPLING,
    max_tokens="max_tokens",
    grammars={"regex": "structured_outputs.regex"},
    template_kwargs="chat_template_kwargs",
    schema_in_completions=True,
    suffix=False,
)
"""vLLM's server."""

SGLANG: Final = UpstreamApi(
    name="sglang",
    sampling=_GPU_SAMPLING,
    max_tokens="max_tokens",
    grammars={"regex": "regex"},
    template_kwargs="chat_template_kwargs",
    suffix=False,
)
"""SGLang's server."""

APIS: Final[Mapping[str, UpstreamApi]] = {
    api.name: api for api in (OPENAI, OTHER, NEURON, LLAMA_SERVER, LLAMA_CPP_PYTHON, VLLM, SGLANG)
}
"""By their names."""
