"""How llama.cpp is to load a model and to keep its context: one struct from the configuration to the native call."""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

__all__ = ("ContextParams",)

KvType: TypeAlias = Literal["f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
Tokens: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 24)]
SomeTokens: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 24)]


class ContextParams(Struct, frozen=True, kw_only=True):
    """The parameters of llama.cpp that an operator can set, under llama.cpp's names. Each default suits most hosts.

    `n_ctx` is the context of one request in tokens; 0 is that of the model. `n_batch` is how many tokens one decode
    call takes, `n_ubatch` how many of them are computed at a time. `threads` 0 means one for each physical core.
    `gpu_layers` is how many layers are on the GPU; -1 puts all there. `kv_type_k` and `kv_type_v` say how attention
    keys and values are stored. The layout `per_sequence` gives each request `n_ctx` cells of its own; `unified` shares
    `kv_cells` among all requests (0: as many as all could fill and memory has room for); `auto` lets the engine choose.
    `swa_full` keeps the whole context for layers that look at a window of it.
    """

    n_ctx: Tokens = 4096
    n_batch: SomeTokens = 512
    n_ubatch: SomeTokens = 512
    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    gpu_layers: Annotated[int, Meta(ge=-1, le=100_000)] = -1
    flash_attn: Literal["auto", "on", "off"] = "auto"
    kv_type_k: KvType = "f16"
    kv_type_v: KvType = "f16"
    kv_layout: Literal["auto", "per_sequence", "unified"] = "auto"
    kv_cells: Tokens = 0
    swa_full: bool = False
