"""What a host does now, in one line for people, and whether it is ready to serve. Pure: everything is an argument."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct

from neuron_lib.registry.progress import describe
from neuron_lib.types import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    FailedLoad,
    LoadingModel,
    ModelInfo,
    ModelLoad,
    ModelStatus,
    UnloadingModel,
    names_model,
)

__all__ = ("Liveness", "NotReady", "Readiness", "draining_line", "status_line", "why_not_ready")


class Liveness(Struct, frozen=True, kw_only=True):
    """The body of `GET /healthz`."""

    status: Literal["ok", "stuck"]


class NotReady(StrEnum):
    """Why no requests should be sent to a host now."""

    DRAINING = "draining"
    LOADING = "loading"
    NO_SERVABLE_MODEL = "no_servable_model"


class Readiness(Struct, frozen=True, kw_only=True):
    """The body of `GET /readyz`. `reason` is null if the host is ready. `detail` is for people."""

    status: Literal["ready", "not_ready"]
    reason: NotReady | None
    detail: str


def why_not_ready(
    activation: ActivationSnapshot, *, models: Sequence[ModelInfo], is_draining: bool, loads_on_demand: bool = False
) -> NotReady | None:
    """None if the host is ready: each default model has had its first try to load, and at least one of them can serve.

    If the host loads models on demand, none of them need be here once start-up loading is over.

    A model whose source did not answer gets further tries. It does not delay this, neither while it waits nor during a
    try. A host without default models gets its models on demand, so it is ready at once.
    """
    if is_draining:
        return NotReady.DRAINING
    is_over = activation.state is ActivationState.READY
    waiting = {*activation.pending, *([activation.in_progress] if activation.in_progress else [])}
    if waiting - {entry.model_id for entry in _deferred(activation)}:
        return NotReady.LOADING
    if is_over and loads_on_demand:
        return None
    configured = {*activation.completed, *(failed.model_id for failed in activation.failed), *waiting}
    if configured and not any(_may_be(model.id, id_) for model in models if _can_serve(model) for id_ in configured):
        return NotReady.NO_SERVABLE_MODEL if is_over else NotReady.LOADING
    return None


def status_line(
    activation: ActivationSnapshot,
    *,
    loading: Sequence[LoadingModel],
    models: Sequence[ModelInfo],
    unloading: Sequence[UnloadingModel],
    lost: Sequence[FailedLoad],
    is_reload_refused: bool = False,
) -> str:
    """`loading org/model 42 %, 1 of 3` during start-up loading, and then `serving 2 models, 1 failed`.

    A reload that was refused is said at the end.
    """
    line = _models_line(activation, loading=loading, models=models, unloading=unloading, lost=lost)
    return f"{line}; the last reload was refused" if is_reload_refused else line


def _models_line(
    activation: ActivationSnapshot,
    *,
    loading: Sequence[LoadingModel],
    models: Sequence[ModelInfo],
    unloading: Sequence[UnloadingModel],
    lost: Sequence[FailedLoad],
) -> str:
    serving = sum(_can_serve(model) for model in models)
    if activation.state is not ActivationState.READY:
        line = _activation_line(activation, {load.model_id: load for load in loading})
        return f"serving {_counted(serving, 'model')}, {line}" if serving and not activation.in_progress else line
    resident = {model.id for model in models}
    gone = {entry.model_id for entry in lost}
    counts = {
        "recovering": sum(model.status is ModelStatus.RECOVERING for model in models),
        "failed": sum(entry.model_id not in resident | gone for entry in activation.failed),
        "lost": len(gone),
        "unloading": len(unloading),
    }
    told = [f"{count} {word}" for word, count in counts.items() if count]
    return ", ".join([f"serving {_counted(serving, 'model')}", *told, *map(_load_line, loading)])


def draining_line(loads: Sequence[ModelLoad], *, unloading: Sequence[UnloadingModel]) -> str:
    """`draining 4 requests`, then `unloading 2 models`, then `stopping`."""
    requests = sum(load.in_flight for load in loads) + sum(model.running_requests for model in unloading)
    if requests:
        return f"draining {_counted(requests, 'request')}"
    return f"unloading {_counted(len(unloading), 'model')}" if unloading else "stopping"


def _deferred(activation: ActivationSnapshot) -> tuple[DeferredLoad, ...]:
    return () if activation.deferred is UNSET else activation.deferred


def _activation_line(activation: ActivationSnapshot, loads: dict[str, LoadingModel]) -> str:
    model_id = activation.in_progress
    settled = len(activation.completed) + len(activation.failed)
    total = settled + len(activation.pending) + (model_id is not None)
    if model_id is None:
        next_try_secs = min((entry.next_try_secs for entry in _deferred(activation)), default=None)
        next_try = "" if next_try_secs is None else f", next try in {next_try_secs} s"
        return f"{len(activation.pending)} of {_counted(total, 'model')} still to load{next_try}"
    load = loads.get(model_id)
    return f"{f'loading {model_id}' if load is None else _load_line(load)}, {settled + 1} of {total}"


def _load_line(load: LoadingModel) -> str:
    """`downloading org/model 42 %, 1.2 of 2.9 GB`: the stage, the id and the progress of a load."""
    stage = load.progress.stage
    return f"{stage} {load.model_id}{describe(load.progress).removeprefix(stage)}"


def _may_be(model_id: str, configured_id: str) -> bool:
    """Whether a model that is resident as `model_id` may be the configured one.

    The two ids may differ: a load on demand may name the quant in a field of its own and not in the id.
    """
    return any(names_model(*ids, quant=None) for ids in ((model_id, configured_id), (configured_id, model_id)))


def _can_serve(model: ModelInfo) -> bool:
    return model.status is ModelStatus.LOADED and (model.servable is None or model.servable.ok)


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"
