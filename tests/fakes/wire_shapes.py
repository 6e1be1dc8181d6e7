"""The control plane's answers as the gateway's parsers demand them: unsigned integers, no stray null, nothing unknown.

Stricter than the contract in one way: a key we never send is refused too, so that a new one is a decision.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

__all__ = ("read_discovery", "read_health", "read_loading", "read_models", "read_version")

Unsigned: TypeAlias = Annotated[int, Meta(ge=0)]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Rate: TypeAlias = Annotated[float, Meta(ge=0)]


class Strict(Struct, forbid_unknown_fields=True):
    pass


class Version(Strict):
    package_version: str
    git_sha: str
    git_dirty: bool
    features: list[str]
    git_sha_long: str | UnsetType = UNSET


class Device(Strict):
    index: Unsigned
    name: str
    vram_total_mb: Unsigned
    compute_capability: str


class HostMemory(Strict):
    total_mb: Positive
    available_mb: Unsigned | UnsetType = UNSET
    limit_mb: Unsigned | UnsetType = UNSET
    limit_available_mb: Unsigned | UnsetType = UNSET


class HostCpus(Strict):
    online: Positive
    usable: Positive
    limit: Rate | UnsetType = UNSET
    load_1m: Rate | UnsetType = UNSET


class Discovery(Strict):
    hostname: str
    os: str
    kernel: str
    devices: list[Device]
    harnesses: list[str]
    max_prompt_tokens: Positive
    cuda_version: str | UnsetType = UNSET
    driver_version: str | UnsetType = UNSET
    cuda_unavailable_reason: str | UnsetType = UNSET
    memory: HostMemory | UnsetType = UNSET
    cpus: HostCpus | UnsetType = UNSET


class DeviceHealth(Strict):
    index: Unsigned
    vram_used_mb: Unsigned
    vram_free_mb: Unsigned
    utilization_pct: Unsigned
    temp_c: Unsigned


class FailedLoad(Strict):
    model_id: str
    error: str


class DeferredLoad(Strict):
    model_id: str
    error: str
    attempt: Positive
    next_try_secs: Unsigned


class Activation(Strict):
    state: Literal["pre_warming", "ready"]
    pending: list[str]
    in_progress: str | None
    completed: list[str]
    failed: list[FailedLoad]
    deferred: Annotated[list[DeferredLoad], Meta(min_length=1)] | UnsetType = UNSET


class ModelLoad(Strict):
    id: str
    in_flight: Unsigned
    queue_depth: Unsigned
    max_in_flight: Unsigned
    max_queue_depth: Unsigned
    rejected_queue_full: Unsigned
    rejected_timeout: Unsigned
    rejected_per_principal: Unsigned
    anon_in_flight: Unsigned
    anon_max_in_flight: Unsigned
    rejected_anon_yield: Unsigned
    rejected_kv_timeout: Unsigned
    rejected_kv_unservable: Unsigned
    kv_budget_mb: Unsigned
    kv_available_mb: Unsigned
    tok_s_prefill: Rate
    tok_s_decode: Rate
    engine_rss_mb: Unsigned
    engine_restarts: Unsigned
    last_engine_death: str


class Progress(Strict):
    stage: Literal["resolving", "downloading", "verifying", "loading", "warming"]
    fraction: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    file: str | UnsetType = UNSET
    bytes: Unsigned | UnsetType = UNSET
    total_bytes: Unsigned | UnsetType = UNSET
    bytes_per_s: Unsigned | UnsetType = UNSET
    eta_s: Unsigned | UnsetType = UNSET
    queue_position: Positive | UnsetType = UNSET


class LoadingModel(Strict):
    model_id: str
    progress: Progress
    elapsed_ms: Unsigned


class UnloadingModel(Strict):
    model_id: str
    elapsed_ms: Unsigned
    running_requests: Unsigned
    is_overdue: bool


class Access(Strict):
    summary: str
    trusted_networks: list[str]
    trusted_proxies: list[str]
    keys: Unsigned


class Reload(Strict):
    count: Positive
    at: Unsigned
    error: str | UnsetType = UNSET
    needs_restart: list[str] | UnsetType = UNSET
    pending: list[str] | UnsetType = UNSET
    failed: list[FailedLoad] | UnsetType = UNSET


class RpcServer(Strict):
    address: str
    state: Literal["unknown", "free", "in_use", "lost"]
    devices: list[Unsigned] | UnsetType = UNSET
    memory_total_mb: list[Unsigned] | UnsetType = UNSET
    memory_free_mb: list[Unsigned] | UnsetType = UNSET
    model_id: str | UnsetType = UNSET
    problem: str | UnsetType = UNSET


class Health(Strict):
    uptime_secs: Unsigned
    devices: list[DeviceHealth]
    activation: Activation
    models: list[ModelLoad]
    loading: list[LoadingModel]
    unloading: list[UnloadingModel]
    lost: list[FailedLoad]
    memory: HostMemory | UnsetType = UNSET
    cpus: HostCpus | UnsetType = UNSET
    access: Access | UnsetType = UNSET
    reload: Reload | UnsetType = UNSET
    rpc_servers: list[RpcServer] | UnsetType = UNSET


class Limit(Strict):
    context: Positive
    output: Positive
    input: Positive | UnsetType = UNSET


class Servable(Strict):
    ok: bool
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class Model(Strict):
    id: str
    harness: str
    status: Literal["loaded", "recovering"]
    devices: list[Unsigned]
    vram_used_mb: Unsigned | UnsetType = UNSET
    ram_used_mb: Unsigned | UnsetType = UNSET
    capabilities: Annotated[list[str], Meta(min_length=1)] | UnsetType = UNSET
    limit: Limit | UnsetType = UNSET
    tool_call: bool | UnsetType = UNSET
    tool_format: str | UnsetType = UNSET
    reasoning: bool | UnsetType = UNSET
    servable: Servable | UnsetType = UNSET
    chat_template: str | UnsetType = UNSET


read_version = msgspec.json.Decoder(Version).decode
read_discovery = msgspec.json.Decoder(Discovery).decode
read_health = msgspec.json.Decoder(Health).decode
read_loading = msgspec.json.Decoder(list[LoadingModel]).decode
read_models = msgspec.json.Decoder(list[Model]).decode
