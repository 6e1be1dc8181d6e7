"""The table of the llama.cpp backend, `[harness.llamacpp]`. `neuron_lib.llamacpp.backend` registers it."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from neuron_lib.config.schema import (
    AdmissionConfig,
    ContextLimitConfig,
    DownloadConfig,
    PromptCacheConfig,
    SamplingConfig,
    SourceConfig,
)
from neuron_lib.config.values import AnyPath, AnyPaths, RpcAddress, Scheme, keep_as_paths
from neuron_lib.types import ContextParams

__all__ = ("LlamaCppConfig",)

_LAST_PORT: Final = 65535


class LlamaCppConfig(ContextParams, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[harness.llamacpp]`: the parameters of llama.cpp (`ContextParams`), and what neuron does around them.

    `hf_cache`, `default_source`, `sources`, `download` and `local_roots` are described at `StoreSettings`. A program
    need not give `local_roots`: without them it decides by itself which files it names. A configuration file must,
    because `load_config` reads a table without `local_roots` as one that allows no directory.

    `speculation` guesses tokens from the prompt and computes several in one step. `target_step_ms` is how long one step
    may take while a prompt is read beside running replies. Running replies send what they have at most once in
    `report_interval_ms`; first tokens and ends are sent at once. An engine that has work and takes no step for
    `stall_timeout_secs` is replaced. With `special_tokens_in_messages` a message that spells a control token
    (`<|im_end|>`) writes that token. Without it, which is safe, the spelling is text. `memory_check` is what becomes of
    a load that needs more memory than is free: `refuse` ends it before any weights are read, `warn` goes on.

    `rpc_servers` are RPC servers of llama.cpp on other hosts, whose devices come after the GPUs of this host. The
    protocol has no authentication and no encryption.
    """

    hf_cache: AnyPath | None = None
    default_source: Scheme = "huggingface"
    sources: dict[Scheme, SourceConfig] = msgspec.field(default_factory=dict)
    download: DownloadConfig = DownloadConfig()
    local_roots: AnyPaths | None = None
    speculation: Literal["auto", "on", "off"] = "auto"
    target_step_ms: Annotated[int, Meta(ge=1, le=60_000)] = 200
    report_interval_ms: Annotated[int, Meta(ge=0, le=1000)] = 0
    stall_timeout_secs: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    special_tokens_in_messages: bool = False
    memory_check: Literal["refuse", "warn"] = "refuse"
    rpc_servers: Annotated[tuple[RpcAddress, ...], Meta(max_length=16)] = ()
    prompt_cache: PromptCacheConfig = PromptCacheConfig()
    context_limit: ContextLimitConfig = ContextLimitConfig()
    admission: AdmissionConfig = AdmissionConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        keep_as_paths(self, "hf_cache", "local_roots")
        if reserved := sorted({"file", "package"} & self.sources.keys()):
            msg = f"the source names {', '.join(reserved)} are built in; choose another"
            raise ValueError(msg)
        if (seats := self.admission.max_in_flight) > self.n_batch:
            msg = f"n_batch is {self.n_batch}, too small for one token of each of {seats} requests"
            raise ValueError(msg)
        if twice := sorted({each for each in self.rpc_servers if self.rpc_servers.count(each) > 1}):
            msg = f"rpc_servers names {', '.join(twice)} twice"
            raise ValueError(msg)
        if wrong := [each for each in self.rpc_servers if int(each.rpartition(":")[2]) > _LAST_PORT]:
            msg = f"rpc_servers names {', '.join(wrong)}: a port is at most {_LAST_PORT}"
            raise ValueError(msg)
