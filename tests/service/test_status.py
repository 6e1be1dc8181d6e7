import pytest

from neuron_lib.types import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    FailedLoad,
    LoadingModel,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelLoad,
    ModelStatus,
    Servable,
    UnloadingModel,
)
from neuron_service.status import NotReady, draining_line, status_line, why_not_ready

A, B, C = "org/a", "org/b", "org/c"
READY, PRE_WARMING = ActivationState.READY, ActivationState.PRE_WARMING


def model(model_id: str, *, status: ModelStatus = ModelStatus.LOADED, servable: Servable | None = None) -> ModelInfo:
    return ModelInfo(id=model_id, harness="llamacpp", status=status, devices=(), servable=servable)


def failed(model_id: str) -> FailedLoad:
    return FailedLoad(model_id=model_id, error="weights are cursed")


def deferred(*model_ids: str, next_try_secs: int = 7) -> tuple[DeferredLoad, ...]:
    return tuple(
        DeferredLoad(model_id=model_id, error="the hub is silent", attempt=1, next_try_secs=next_try_secs)
        for model_id in model_ids
    )


def loading(model_id: str, progress: LoadProgress) -> LoadingModel:
    return LoadingModel(model_id=model_id, progress=progress, elapsed_ms=1)


def leaving(model_id: str, *, running_requests: int = 0) -> UnloadingModel:
    return UnloadingModel(model_id=model_id, elapsed_ms=1, running_requests=running_requests, is_overdue=False)


# ------------------------------------------------------------------------------------------------------ status line

WEIGHTS = LoadProgress(stage=LoadStage.LOADING, fraction=0.42)
FETCH = LoadProgress(
    stage=LoadStage.DOWNLOADING,
    fraction=0.41,
    bytes=12 * 10**8,
    total_bytes=29 * 10**8,
    bytes_per_s=38 * 10**6,
    eta_s=45,
)


@pytest.mark.parametrize(
    ("activation", "loads", "line"),
    [
        (ActivationSnapshot(state=PRE_WARMING, pending=(A,)), (), "1 of 1 model still to load"),
        (ActivationSnapshot(state=PRE_WARMING, pending=(A, B), completed=(C,)), (), "2 of 3 models still to load"),
        (
            ActivationSnapshot(state=PRE_WARMING, pending=(A, B), completed=(C,), deferred=deferred(B, A)),
            (),
            "2 of 3 models still to load, next try in 7 s",
        ),
        (ActivationSnapshot(state=PRE_WARMING, in_progress=A, pending=(B, C)), (), "loading org/a, 1 of 3"),
        (
            ActivationSnapshot(state=PRE_WARMING, in_progress=B, pending=(C,), failed=(failed(A),)),
            (loading(C, FETCH), loading(B, WEIGHTS)),
            "loading org/b 42 %, 2 of 3",
        ),
        (
            ActivationSnapshot(state=PRE_WARMING, in_progress=A),
            (loading(A, FETCH),),
            "downloading org/a 41 %, 1.2 of 2.9 GB, 38 MB/s, 45 s left, 1 of 1",
        ),
    ],
)
def test_while_start_up_loading_runs_the_line_says_what_loads_and_how_many_there_are(
    activation: ActivationSnapshot, loads: tuple[LoadingModel, ...], line: str
) -> None:
    assert status_line(activation, loading=loads, models=(), unloading=(), lost=()) == line


def test_while_deferred_models_wait_for_their_next_try_the_line_says_first_what_serves() -> None:
    activation = ActivationSnapshot(state=PRE_WARMING, pending=(A,), completed=(B,), deferred=deferred(A))
    line = status_line(activation, loading=(), models=[model(B)], unloading=(), lost=())
    assert line == "serving 1 model, 1 of 2 models still to load, next try in 7 s"


@pytest.mark.parametrize(
    ("activation", "models", "lost", "loads", "leaving", "line"),
    [
        (ActivationSnapshot(state=READY), (), (), (), (), "serving no models"),
        (ActivationSnapshot(state=READY, completed=(A,)), (model(A),), (), (), (), "serving 1 model"),
        (
            ActivationSnapshot(state=READY, completed=(A, B), failed=(failed(C),)),
            (model(A), model(B)),
            (),
            (),
            (),
            "serving 2 models, 1 failed",
        ),
        (
            ActivationSnapshot(state=READY, completed=(A, B)),
            (model(A), model(B, status=ModelStatus.RECOVERING)),
            (),
            (),
            (),
            "serving 1 model, 1 recovering",
        ),
        (ActivationSnapshot(state=READY, completed=(A,)), (), (failed(A),), (), (), "serving no models, 1 lost"),
        (
            ActivationSnapshot(state=READY, failed=(failed(A), failed(B))),
            (model(A),),
            (failed(B),),
            (),
            (),
            "serving 1 model, 1 lost",
        ),
        (
            ActivationSnapshot(state=READY, completed=(A,)),
            (model(A),),
            (),
            (loading(B, WEIGHTS),),
            (),
            "serving 1 model, loading org/b 42 %",
        ),
        (
            ActivationSnapshot(state=READY, completed=(A, B)),
            (model(A),),
            (),
            (),
            (leaving(B),),
            "serving 1 model, 1 unloading",
        ),
    ],
    ids=["nothing", "one", "one failed", "recovering", "lost", "failed once", "on demand", "on its way out"],
)
def test_after_start_up_loading_the_line_counts_the_models_and_names_the_loads_on_demand(
    *,
    activation: ActivationSnapshot,
    models: tuple[ModelInfo, ...],
    lost: tuple[FailedLoad, ...],
    loads: tuple[LoadingModel, ...],
    leaving: tuple[UnloadingModel, ...],
    line: str,
) -> None:
    assert status_line(activation, loading=loads, models=models, unloading=leaving, lost=lost) == line


@pytest.mark.parametrize(
    ("running", "unloading", "line"),
    [
        ((3, 1), (), "draining 4 requests"),
        ((1, 0), (), "draining 1 request"),
        ((0,), (leaving(B, running_requests=2),), "draining 2 requests"),
        ((), (leaving(A), leaving(B)), "unloading 2 models"),
        ((), (), "stopping"),
    ],
)
def test_a_host_that_drains_counts_first_the_requests_and_then_the_models_that_it_waits_for(
    running: tuple[int, ...], unloading: tuple[UnloadingModel, ...], line: str
) -> None:
    loads = [ModelLoad(id=str(index), in_flight=count, queue_depth=7) for index, count in enumerate(running)]
    assert draining_line(loads, unloading=unloading) == line


# -------------------------------------------------------------------------------------------------------- readiness

NO_ROOM = Servable(ok=False, reason="insufficient_vram")


@pytest.mark.parametrize(
    ("activation", "models", "reason"),
    [
        (ActivationSnapshot(state=READY), (), None),
        (ActivationSnapshot(state=READY, completed=(A,), failed=(failed(B),)), (model(A),), None),
        (ActivationSnapshot(state=READY, completed=(A,)), (model(A, servable=Servable(ok=True)),), None),
        (ActivationSnapshot(state=READY, failed=(failed(A),)), (model(A),), None),
        (ActivationSnapshot(state=PRE_WARMING, completed=(A,), pending=(B,)), (model(A),), NotReady.LOADING),
        (ActivationSnapshot(state=PRE_WARMING, completed=(A,), in_progress=B), (model(A),), NotReady.LOADING),
        (
            ActivationSnapshot(state=PRE_WARMING, completed=(A,), pending=(B, C), deferred=deferred(C)),
            (model(A),),
            NotReady.LOADING,
        ),
        (
            ActivationSnapshot(state=PRE_WARMING, completed=(A,), pending=(B, C), deferred=deferred(B, C)),
            (model(A),),
            None,
        ),
        (
            ActivationSnapshot(state=PRE_WARMING, completed=(A,), in_progress=B, deferred=deferred(B)),
            (model(A),),
            None,
        ),
        (
            ActivationSnapshot(state=PRE_WARMING, pending=(A,), failed=(failed(B),), deferred=deferred(A)),
            (),
            NotReady.LOADING,
        ),
        (
            ActivationSnapshot(state=PRE_WARMING, completed=(A,), pending=(B,), deferred=deferred(B)),
            (model(A, status=ModelStatus.RECOVERING), model(C)),
            NotReady.LOADING,
        ),
        (ActivationSnapshot(state=READY, failed=(failed(A),)), (), NotReady.NO_SERVABLE_MODEL),
        (ActivationSnapshot(state=READY, completed=(A,)), (), NotReady.NO_SERVABLE_MODEL),
        (ActivationSnapshot(state=READY, completed=(A,)), (model(B),), NotReady.NO_SERVABLE_MODEL),
        (ActivationSnapshot(state=READY, completed=(A,)), (model(A, servable=NO_ROOM),), NotReady.NO_SERVABLE_MODEL),
        (
            ActivationSnapshot(state=READY, completed=(A,)),
            (model(A, status=ModelStatus.RECOVERING),),
            NotReady.NO_SERVABLE_MODEL,
        ),
    ],
    ids=[
        "none configured", "one of two", "servable", "loaded later", "one to come", "loading", "one of each",
        "others deferred", "another try", "deferred or failed", "recovering beside deferred", "all failed", "unloaded",
        "another one",
        "no room", "recovering",
    ],
)  # fmt: skip
def test_a_host_is_ready_once_each_configured_model_had_its_first_try_and_one_can_serve(
    activation: ActivationSnapshot, models: tuple[ModelInfo, ...], reason: NotReady | None
) -> None:
    assert why_not_ready(activation, models=models, is_draining=False) is reason


def test_a_host_that_drains_is_not_ready_whatever_it_has() -> None:
    activation = ActivationSnapshot(state=READY, completed=(A,))
    assert why_not_ready(activation, models=[model(A)], is_draining=True) is NotReady.DRAINING
