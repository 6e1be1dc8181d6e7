"""What to load, what is loaded, and how far a load has come."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

__all__ = (
    "FailedLoad",
    "LoadProgress",
    "LoadStage",
    "LoadingModel",
    "ModelInfo",
    "ModelLimit",
    "ModelLoad",
    "ModelSpec",
    "ModelStatus",
    "Servable",
    "UnloadingModel",
)

DeviceIndex = Annotated[int, Meta(ge=0, le=1023)]


class ModelSpec(Struct, frozen=True, kw_only=True):
    """What to load: one `[[default_models]]` entry, or the body of `POST /models/load`.

    `model_id` is `[scheme:]org/name[:quant]`. `quant` selects among a repository's GGUF files (`"Q4_K_M"`), None takes
    that of the id, or the best default. `devices` are GPU indices; None means the first, or the first `tensor_parallel`
    ones, an empty tuple the CPU.
    """

    model_id: str
    harness: str
    quant: str | None = None
    tensor_parallel: Annotated[int, Meta(ge=1, le=1024)] | None = None
    devices: Annotated[tuple[DeviceIndex, ...], Meta(max_length=256)] | None = None


class LoadStage(StrEnum):
    """The stages of a load, in order."""

    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"


class LoadProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far one load has come; what the stage cannot say is None. Within one load nothing of it ever goes back.

    `fraction` is 0.0–1.0 of this stage. `bytes` of `total_bytes` count all files of the model, `file` is the one that
    is read or written now. `bytes_per_s` is the rate of the last seconds, `eta_s` what is left of the stage at that
    rate. `queue_position` is there while the load waits for other fetches to end: 1 is the next.
    """

    stage: LoadStage
    fraction: float | None = None
    file: str | None = None
    bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_s: int | None = None
    eta_s: int | None = None
    queue_position: int | None = None


class LoadingModel(Struct, frozen=True, kw_only=True):
    """One load that is running now, as `/health` shows it."""

    model_id: str
    progress: LoadProgress
    elapsed_ms: int


class UnloadingModel(Struct, frozen=True, kw_only=True):
    """One model that is on its way out, as `/health` shows it, or a load that was cancelled.

    `is_overdue`: its harness takes too long to let it go, so nobody is kept waiting for it any more, and its memory
    may still be taken.
    """

    model_id: str
    elapsed_ms: int
    running_requests: int
    is_overdue: bool


class ModelStatus(StrEnum):
    """The states of a listed model. The gateway reads any other word as `loaded`, so there are no others."""

    LOADED = "loaded"
    RECOVERING = "recovering"


class ModelLimit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token limits of one request: `context` for prompt and reply together; never 0."""

    context: int
    output: int
    input: int | None = None


class Servable(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether an idle host could serve even a minimal request with this model."""

    ok: bool
    reason: str | None = None
    detail: str | None = None


class ModelInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resident model, exactly as one element of `GET /models` (wire contract §1.4); defaults are left out.

    `chat_template` is ours: "fallback" where the model has no template and is given ChatML, "configured" where the
    operator chose one, None where prompts are written with the model's own.
    """

    id: str
    harness: str
    status: ModelStatus
    devices: tuple[int, ...]
    vram_used_mb: int | None = None
    capabilities: tuple[str, ...] = ()
    limit: ModelLimit | None = None
    tool_call: bool = False
    reasoning: bool = False
    servable: Servable | None = None
    chat_template: str | None = None


class ModelLoad(Struct, frozen=True, kw_only=True):
    """How busy a resident model is, as in `/health` `models[]` (wire contract §1.3).

    `queue_depth` counts requests that wait for a seat or are being prepared. The last three are ours: the
    resident memory of the engine's process (0 unknown), how often it was started again, and how the last one died (""
    none did).
    """

    id: str
    in_flight: int
    queue_depth: int
    max_in_flight: int = 0
    max_queue_depth: int = 0
    rejected_queue_full: int = 0
    rejected_timeout: int = 0
    rejected_per_principal: int = 0
    anon_in_flight: int = 0
    anon_max_in_flight: int = 0
    rejected_anon_yield: int = 0
    rejected_kv_timeout: int = 0
    rejected_kv_unservable: int = 0
    kv_budget_mb: int = 0
    kv_available_mb: int = 0
    tok_s_prefill: float = 0.0
    tok_s_decode: float = 0.0
    engine_rss_mb: int = 0
    engine_restarts: int = 0
    last_engine_death: str = ""


class FailedLoad(Struct, frozen=True, kw_only=True):
    """A model that did not load, and why: the whole cause chain in one line."""

    model_id: str
    error: str
