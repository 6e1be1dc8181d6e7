"""What `neuron ps` says about a daemon."""

from typing import Any

import msgspec
import pytest

from neuron_lib.types import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    DeviceHealth,
    FailedLoad,
    Health,
    HostMemory,
    LoadingModel,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelLoad,
    ModelStatus,
    Servable,
    UnloadingModel,
)
from neuron_service.cli.residents import HEADINGS, STATES, cells, describe_host, residents, style, to_json
from neuron_service.client.translation import NOT_NEURON


def health(**changes: Any) -> dict[str, Any]:
    whole = Health(
        uptime_secs=1,
        devices=(DeviceHealth(index=0, vram_used_mb=1000, vram_free_mb=7000, utilization_pct=40, temp_c=61),),
        activation=ActivationSnapshot(
            state=ActivationState.PRE_WARMING,
            pending=("a/later", "a/again"),
            failed=(FailedLoad(model_id="a/broken", error="no such quant"),),
            deferred=(DeferredLoad(model_id="a/again", error="no hub", attempt=2, next_try_secs=200),),
        ),
        models=(ModelLoad(id="a/one", in_flight=2, queue_depth=1, max_in_flight=8, tok_s_decode=41.26),),
        loading=(
            LoadingModel(
                model_id="a/two", progress=LoadProgress(stage=LoadStage.DOWNLOADING, fraction=0.429), elapsed_ms=1
            ),
        ),
        unloading=(UnloadingModel(model_id="a/old", elapsed_ms=9, running_requests=2, is_overdue=True),),
        lost=(FailedLoad(model_id="a/lost", error="died three times"),),
        memory=HostMemory(total_mb=64000, available_mb=32000),
    )
    built: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(whole, **changes))
    return built


ONE = ModelInfo(id="a/one", harness="llamacpp", status=ModelStatus.LOADED, devices=(), ram_used_mb=890)


def shown(health: dict[str, Any], *models: ModelInfo) -> dict[str, tuple[str, str]]:
    return {each.id: (each.state, each.detail) for each in residents(health, msgspec.to_builtins(models))}


def test_every_model_is_shown_once_with_its_state() -> None:
    assert shown(health(), ONE) == {
        "a/one": ("loaded", ""),
        "a/two": ("loading", "downloading 42 %"),
        "a/old": ("unloading", "waits for 2 replies, takes longer than it may"),
        "a/again": ("deferred", "next try in 3 min: no hub"),
        "a/later": ("pending", ""),
        "a/broken": ("failed", "no such quant"),
        "a/lost": ("lost", "died three times"),
    }


def test_a_default_model_that_failed_and_was_loaded_by_somebody_is_loaded() -> None:
    activation = ActivationSnapshot(state=ActivationState.READY, failed=(FailedLoad(model_id="a/one", error="x"),))
    assert shown(health(activation=activation), ONE)["a/one"] == ("loaded", "")


def test_a_model_that_cannot_serve_says_why() -> None:
    broken = msgspec.structs.replace(ONE, servable=Servable(ok=False, reason="r", detail="no room for one request"))
    assert shown(health(), broken)["a/one"] == ("loaded", "no room for one request")


def test_restarts_of_the_engine_are_shown_with_the_last_death() -> None:
    load = ModelLoad(id="a/one", in_flight=0, queue_depth=0, engine_restarts=1, last_engine_death="SIGSEGV")
    assert shown(health(models=(load,)), ONE)["a/one"][1] == "1 restart, the last one after: SIGSEGV"


def test_numbers_are_those_of_health_and_the_memory_is_decimal() -> None:
    first = residents(health(), msgspec.to_builtins((ONE,)))[0]
    assert cells(first) == ("a/one", "loaded", "2 of 8", "1", "41.3", "", "933 MB")
    assert len(cells(first)) == len(HEADINGS)
    assert to_json(first) == {
        "id": "a/one",
        "state": "loaded",
        "running": 2,
        "max_running": 8,
        "waiting": 1,
        "tokens_per_s": 41.26,
        "memory_bytes": 890 << 20,
    }


def test_kv_cells_are_shown_as_the_share_that_is_taken() -> None:
    load = ModelLoad(id="a/one", in_flight=0, queue_depth=0, kv_budget_mb=400, kv_available_mb=300)
    assert cells(residents(health(models=(load,)), [])[0])[5] == "25 %"


def test_every_state_has_a_style() -> None:
    found = residents(health(), msgspec.to_builtins((ONE,)))
    assert {each.state for each in found} | {"recovering"} == set(STATES)
    assert [style(each) for each in found[:3]] == ["good", "busy", "warning"]


def test_the_host_is_its_memory_and_its_gpus() -> None:
    assert describe_host(health()) == ["memory  34 GB of 67 GB free", "gpu0    7.3 GB of 8.4 GB free, 40 % busy, 61 °C"]


@pytest.mark.parametrize("answer", [{}, {"models": [{}]}, {"models": 1}, {"models": [], "activation": None}, []])
def test_the_answer_of_another_program_raises_what_the_caller_expects(answer: Any) -> None:
    with pytest.raises(NOT_NEURON):
        residents(answer, [])
