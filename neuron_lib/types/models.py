"""What to load, what is loaded, and the progress of a load."""

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
    "ModelPhase",
    "ModelSpec",
    "ModelStatus",
    "Servable",
    "UnloadingModel",
)

DeviceIndex = Annotated[int, Meta(ge=0, le=1023)]
Devices = Annotated[tuple[DeviceIndex, ...], Meta(max_length=256)]


class ModelSpec(Struct, frozen=True, kw_only=True):
    """What to load: an entry of `[[default_models]]`, or the body of `POST /models/load`.

    `model_id` is `[scheme:]org/name[:quant]`. `harness` is the name of the backend to load the model with. None means
    the only backend of the host, and is an error on a host with several. `quant` chooses among a repository's GGUF
    files (`"Q4_K_M"`). None means the quant of the id, or else the best default. `devices` are GPU indices. None means
    the first GPU, or the first `tensor_parallel` GPUs. An empty tuple means the CPU.
    """

    model_id: str
    harness: str | None = None
    quant: str | None = None
    tensor_parallel: Annotated[int, Meta(ge=1, le=1024)] | None = None
    devices: Devices | None = None


class LoadStage(StrEnum):
    """The stages of a load, in order."""

    RESOLVING = "resolving"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"


class LoadProgress(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The progress of one load. A value that the stage does not know is None. Within a load no value goes back.

    `fraction` is 0.0 to 1.0 of this stage. `bytes` and `total_bytes` count all files of the model. `file` is the file
    that is read or written now. `bytes_per_s` is the rate of the last seconds. `eta_s` is the time that the stage still
    takes at that rate. `queue_position` is the place of a load that waits for other fetches to end: 1 is the next.
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
    """One load that runs now, as `/health` shows it. `elapsed_ms` counts from the beginning of the load."""

    model_id: str
    progress: LoadProgress
    elapsed_ms: int


class UnloadingModel(Struct, frozen=True, kw_only=True):
    """One model that is being unloaded, or a load that was cancelled, as `/health` shows it.

    `elapsed_ms` counts from the beginning of the unload. `is_overdue` means that the harness takes too long to release
    the model. Then no caller waits for it any more, and its memory may still be taken.
    """

    model_id: str
    elapsed_ms: int
    running_requests: int
    is_overdue: bool


class ModelPhase(StrEnum):
    """The phase of a hosted model."""

    LOADING = "loading"
    """Its harness loads it."""
    SERVING = "serving"
    """It takes requests."""
    RECOVERING = "recovering"
    """It takes requests, and its harness replaces an engine that died."""
    DRAINING = "draining"
    """It takes no more requests. Running requests may end."""
    CLOSING = "closing"
    """Its harness releases it, or gives up its load."""
    GONE = "gone"
    """Its memory is back."""

    @property
    def serves(self) -> bool:
        """Whether it takes requests."""
        return self in {ModelPhase.SERVING, ModelPhase.RECOVERING}

    @property
    def is_leaving(self) -> bool:
        """Whether it no longer serves, or never will."""
        return self in {ModelPhase.DRAINING, ModelPhase.CLOSING, ModelPhase.GONE}


class ModelStatus(StrEnum):
    """The states of a listed model. There are no others, because the gateway takes an unknown word for `loaded`."""

    LOADED = "loaded"
    RECOVERING = "recovering"


class ModelLimit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits of one request in tokens: `context` for prompt and reply together, `input`, `output`. Never 0."""

    context: int
    output: int
    input: int | None = None


class Servable(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether an idle host could serve even a minimal request with this model."""

    ok: bool
    reason: str | None = None
    detail: str | None = None


class ModelInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A resident model: one element of `GET /models` (`docs/reference/wire-contract.md#models`). Defaults are left out.

    `vram_used_mb` is the memory of GPUs that the model takes, in MiB, as their driver says. `ram_used_mb` is the
    resident memory of its engine on the host, in MiB, weights included. `tool_format` is the name of the format in
    which tool calls are asked for and read.
    `chat_template` is "fallback" if the model has no template and gets ChatML, "configured"
    if the operator chose one, and None if prompts are written with the model's own template.
    """

    id: str
    harness: str
    status: ModelStatus
    devices: tuple[int, ...]
    vram_used_mb: int | None = None
    ram_used_mb: int | None = None
    capabilities: tuple[str, ...] = ()
    limit: ModelLimit | None = None
    tool_call: bool = False
    tool_format: str | None = None
    reasoning: bool = False
    servable: Servable | None = None
    chat_template: str | None = None


class ModelLoad(Struct, frozen=True, kw_only=True):
    """How busy a resident model is: one element of `models` in `/health` (`docs/reference/wire-contract.md#health`).

    `queue_depth` counts requests that wait for a seat or are being prepared. `rejected_*` count since the model was
    loaded: `queue_full` at the door, `timeout` of waits, `per_principal` by the cap of one principal, `anon_yield` of
    anonymous callers from whom free seats were withheld, `kv_timeout` of waits for cells, `kv_unservable` of requests
    that need more cells than there are. `anon_in_flight` are the seats of anonymous callers, who may have
    `anon_max_in_flight`. `kv_budget_mb` is the memory of all cells in MiB, and `kv_available_mb` of those that running
    requests have not reserved; both are 0 where the model has none. `tok_s_*` are tokens per second. `engine_rss_mb` is
    the resident memory of the engine's process in MiB, 0 if unknown. `engine_restarts` says how often the engine was
    started again, and `last_engine_death` how the last engine died, "" if none did.
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
    """A model that did not load or was given up. `error` is the whole chain of causes in one line."""

    model_id: str
    error: str
