"""What a host says about itself: devices, health readings, start-up loading."""

from enum import StrEnum

from msgspec import UNSET, Struct, UnsetType

from neuron_lib.types.models import FailedLoad, LoadingModel, ModelLoad, UnloadingModel

__all__ = ("ActivationSnapshot", "ActivationState", "DeferredLoad", "Device", "DeviceHealth", "Discovery", "Health")


class Device(Struct, frozen=True, kw_only=True):
    """A GPU as it is; `compute_capability` is text such as `"8.9"`."""

    index: int
    name: str
    vram_total_mb: int
    compute_capability: str


class DeviceHealth(Struct, frozen=True, kw_only=True):
    """A GPU as it feels now; all unsigned."""

    index: int
    vram_used_mb: int
    vram_free_mb: int
    utilization_pct: int
    temp_c: int


class Discovery(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host is, which does not change while the process lives (wire contract §1.2).

    `max_prompt_tokens` is > 0; without it, nobody has looked at the hardware yet.
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


class ActivationState(StrEnum):
    """Whether start-up loading is over. The gateway knows exactly these two words."""

    PRE_WARMING = "pre_warming"
    READY = "ready"


class DeferredLoad(Struct, frozen=True, kw_only=True):
    """A default model whose load failed for a passing reason and that gets another try.

    `error` is the whole reason of the last failure and `attempt` counts the failed tries. `next_try_secs` is the time
    until the next one, 0 while it runs; other default models that have not had their turn are loaded before.
    """

    model_id: str
    error: str
    attempt: int
    next_try_secs: int


class ActivationSnapshot(Struct, frozen=True, kw_only=True):
    """How far the loading of the default models has come; every id stands in exactly one of the first four places.

    `deferred` is ours, beyond the contract: details of those in `pending` or `in_progress` that have been tried before;
    UNSET while there is none.
    """

    state: ActivationState
    pending: tuple[str, ...] = ()
    in_progress: str | None = None
    completed: tuple[str, ...] = ()
    failed: tuple[FailedLoad, ...] = ()
    deferred: tuple[DeferredLoad, ...] | UnsetType = UNSET


class Health(Struct, frozen=True, kw_only=True):
    """The body of `GET /health` (wire contract §1.3). `loading`, `unloading` and `lost` are ours, beyond it.

    `loading` lists every load that runs now, default or on demand, `unloading` every model that is on its way out and
    whose memory is not back yet. `lost` lists models whose engine died, with the
    reason, until they are loaded again.
    """

    uptime_secs: int
    devices: tuple[DeviceHealth, ...]
    activation: ActivationSnapshot
    models: tuple[ModelLoad, ...]
    loading: tuple[LoadingModel, ...] = ()
    unloading: tuple[UnloadingModel, ...] = ()
    lost: tuple[FailedLoad, ...] = ()
