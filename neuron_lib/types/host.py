"""What a host reports about itself: devices, health readings, start-up loading."""

from enum import StrEnum

from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types.models import FailedLoad, LoadingModel, ModelLoad, UnloadingModel
from neuron_lib.types.rpc import RpcServer

__all__ = (
    "AccessState",
    "ActivationSnapshot",
    "ActivationState",
    "DeferredLoad",
    "Device",
    "DeviceHealth",
    "Discovery",
    "Health",
    "HostCpus",
    "HostMemory",
    "Reload",
)


class Device(Struct, frozen=True, kw_only=True):
    """The constant facts of a GPU. `vram_total_mb` is in MiB, `compute_capability` is text such as `"8.9"`."""

    index: int
    name: str
    vram_total_mb: int
    compute_capability: str


class DeviceHealth(Struct, frozen=True, kw_only=True):
    """A reading of a GPU: memory in MiB, utilization in percent, temperature in °C. All numbers are 0 or more."""

    index: int
    vram_used_mb: int
    vram_free_mb: int
    utilization_pct: int
    temp_c: int


class HostMemory(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The memory of a host, in MiB. `available_mb` can be taken without swapping.

    `limit_mb` is what the control groups allow the service and its engines together, such as a container's limit or
    systemd's `MemoryMax`, and `limit_available_mb` what is left of that. None without a limit, or if it is not known.
    """

    total_mb: int
    available_mb: int | None = None
    limit_mb: int | None = None
    limit_available_mb: int | None = None


class HostCpus(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The CPUs of a host: threads of the hardware that are online, and those that the service may run on.

    `limit` is how many CPUs the control groups allow on average. None without a limit. `load_1m` is the number of
    processes of the whole host that ran or waited for a CPU, on average over the last minute.
    """

    online: int
    usable: int
    limit: float | None = None
    load_1m: float | None = None


class Discovery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of `GET /discovery` (`docs/reference/wire-contract.md#discovery`): what a host is.

    `max_prompt_tokens` is above 0. None means that the hardware has not been seen yet. Once it has been seen, nothing
    here changes while the process lives. `memory` and `cpus` have the facts that do not change. They are None until the
    hardware has been looked at. The gateway ignores them.
    """

    hostname: str
    os: str
    kernel: str
    devices: tuple[Device, ...]
    harnesses: tuple[str, ...]
    max_prompt_tokens: int | None = None
    cuda_version: str | None = None
    driver_version: str | None = None
    cuda_unavailable_reason: str | None = None
    memory: HostMemory | None = None
    cpus: HostCpus | None = None


class ActivationState(StrEnum):
    """Whether start-up loading is over. The gateway knows exactly these two values."""

    PRE_WARMING = "pre_warming"
    READY = "ready"


class DeferredLoad(Struct, frozen=True, kw_only=True):
    """A default model whose load failed for a passing reason and that gets another try.

    `error` is the whole reason of the last failure, and `attempt` the number of failed tries. `next_try_secs` is the
    time until the next try in seconds, 0 while the try runs. Default models without a try so far are loaded before
    that.
    """

    model_id: str
    error: str
    attempt: int
    next_try_secs: int


class ActivationSnapshot(Struct, frozen=True, kw_only=True):
    """The loading of the default models (`docs/reference/wire-contract.md#activation`).

    Every id is in exactly one of `pending`, `in_progress`, `completed` and `failed`. `deferred` has details of the ids
    in `pending` or `in_progress` that have been tried before. It is UNSET while there are none. The gateway ignores it.
    """

    state: ActivationState
    pending: tuple[str, ...] = ()
    in_progress: str | None = None
    completed: tuple[str, ...] = ()
    failed: tuple[FailedLoad, ...] = ()
    deferred: tuple[DeferredLoad, ...] | UnsetType = UNSET


class Reload(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last time at which a host has read its configuration again: `at` in seconds of Unix time.

    `count` is the number of times so far. `error` says why everything has stayed as it was; it is None after a reload
    that succeeded. `needs_restart` has the keys whose new values are not in force. `pending` and `failed` are models
    that reloads have added to the default models, and that are to be loaded or cannot be loaded.
    """

    count: int
    at: int
    error: str | None = None
    needs_restart: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    failed: tuple[FailedLoad, ...] = ()


class AccessState(Struct, frozen=True, kw_only=True):
    """Whom a service lets in: callers of `trusted_networks` without a key, and others with one of so many `keys`.

    `trusted_proxies` are the places whose word counts about who is behind them. `summary` says all that in one line.
    """

    summary: str
    trusted_networks: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    keys: int


class Health(Struct, frozen=True, kw_only=True):
    """The body of `GET /health` (`docs/reference/wire-contract.md#health`).

    `loading` lists every load that runs now, at start-up or on demand. `unloading` lists every model that is being
    unloaded, until its memory is back. `lost` lists models that were given up after their engines had died, with the
    reason, until they are loaded again. `memory` and `cpus` are the latest readings of the host. They are UNSET before
    the first one. `access` is left out by a program that checks its callers by itself. `reload` is UNSET until the host
    has read its configuration again. `rpc_servers` is UNSET on a host without them. The gateway ignores these eight.
    """

    uptime_secs: int
    devices: tuple[DeviceHealth, ...]
    activation: ActivationSnapshot
    models: tuple[ModelLoad, ...]
    loading: tuple[LoadingModel, ...] = ()
    unloading: tuple[UnloadingModel, ...] = ()
    lost: tuple[FailedLoad, ...] = ()
    memory: HostMemory | UnsetType = UNSET
    cpus: HostCpus | UnsetType = UNSET
    access: AccessState | UnsetType = UNSET
    reload: Reload | UnsetType = UNSET
    rpc_servers: tuple[RpcServer, ...] | UnsetType = UNSET
