"""The plan of a load says what libllama would allocate, and chooses a layout that fits. No weights are read."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuron_lib.engine import memory_planner
from neuron_lib.engine.memory_planner import plan_load, settle_context
from neuron_lib.engine.protocol import Load
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.types import ContextParams, MemoryPlan
from tests.fakes.synthetic_gguf import KINDS, write_synthetic

MIB = 1 << 20


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    init_backend()
    route_logs(lambda _level, _text: None)
    folder = tmp_path_factory.mktemp("planned")
    paths = {kind: folder / f"{kind}.gguf" for kind in (*KINDS, "gemma-embedding")}
    for kind, path in paths.items():
        write_synthetic(path, kind)
    return paths


def load(path: Path, *, seats: int = 4, assumes_empty: bool = False, **params: object) -> Load:
    context = ContextParams(**{"n_ctx": 2048, "n_ubatch": 64, "threads": 1, **params})  # type: ignore[arg-type]  # by name
    return Load(path=str(path), seats=seats, context=context, target_step_s=1.0, assumes_empty=assumes_empty)


def planned(order: Load) -> MemoryPlan:
    plan = plan_load(order)
    assert plan is not None
    return plan


def leave_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """Let the host have so much free beside what the engine's process takes by itself."""
    monkeypatch.setattr(memory_planner, "free_bytes", lambda _device: free_bytes)
    monkeypatch.setattr(memory_planner, "bytes_resident", lambda: 0)
    monkeypatch.setattr(memory_planner, "_ENGINE_BYTES", 0)
    monkeypatch.setattr(memory_planner, "_VOCABULARY_BYTES", 0)


@pytest.mark.parametrize("kind", KINDS)
def test_with_room_each_sequence_gets_cells_of_its_own(paths: Mapping[str, Path], kind: str) -> None:
    plan = planned(load(paths[kind]))
    assert (plan.kv_layout, plan.kv_cells, plan.n_ctx, plan.seats) == ("per_sequence", 4 * 2048, 2048, 4)
    assert (plan.layers, plan.gpu_layers, plan.native_context) == (4, 0, 8192)
    (cpu,) = plan.devices
    assert cpu.device == "cpu"
    assert cpu.weights_bytes > 0
    assert cpu.context_bytes > 0
    assert cpu.compute_bytes > 0
    assert cpu.process_bytes > 10 * MIB
    assert plan.fits
    assert plan.needs == {"cpu": cpu.needed_bytes}


def test_the_cells_of_the_plan_are_those_of_the_arithmetic(paths: Mapping[str, Path]) -> None:
    plan = planned(load(paths["full"]))
    assert plan.devices[0].context_bytes == 4 * 2048 * 4 * 128  # seats, tokens, layers, keys and values in f16
    assert plan.cell_bytes == 4 * 128


@pytest.mark.parametrize("free_mb", [3, 4, 5])
@pytest.mark.parametrize("kind", ["full", "windowed", "hybrid"])
def test_a_pool_takes_no_more_than_is_free(
    paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str, free_mb: int
) -> None:
    whole = planned(load(paths[kind], seats=16))
    leave_free(monkeypatch, whole.devices[0].weights_bytes + whole.devices[0].compute_bytes + free_mb * MIB)
    plan = planned(load(paths[kind], seats=16))
    assert plan.kv_layout == "unified"
    assert plan.kv_cells < 16 * 2048
    assert plan.fits
    assert plan.devices[0].needed_bytes <= plan.devices[0].free_bytes


def test_a_load_that_cannot_fit_says_so(paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    leave_free(monkeypatch, 100_000)
    plan = planned(load(paths["full"]))
    assert not plan.fits
    assert plan.devices[0].free_bytes == 100_000 < plan.devices[0].needed_bytes


def test_cells_that_were_asked_for_by_number_are_planned_even_if_they_do_not_fit(
    paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, 4 * MIB)
    plan = planned(load(paths["full"], kv_layout="unified", kv_cells=65536))
    assert (plan.kv_layout, plan.kv_cells, plan.fits) == ("unified", 65536, False)


def test_a_pool_smaller_than_a_context_shortens_the_context(
    paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = planned(load(paths["full"]))
    leave_free(monkeypatch, whole.devices[0].weights_bytes + whole.devices[0].compute_bytes + MIB // 2)
    plan = planned(load(paths["full"]))
    assert plan.n_ctx == plan.kv_cells < 2048


def test_a_plan_for_an_empty_host_does_not_look_at_what_is_free(
    paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, 1)
    assert planned(load(paths["full"], assumes_empty=True)).fits


@pytest.mark.parametrize("assumes_empty", [False, True])
def test_a_pool_takes_no_more_of_the_host_s_memory_than_models_may(
    paths: Mapping[str, Path], *, assumes_empty: bool
) -> None:
    asked = load(paths["full"], seats=16, assumes_empty=assumes_empty)
    limit_bytes = planned(asked).devices[0].needed_bytes - MIB
    plan = planned(replace(asked, host_limit_bytes=limit_bytes))
    assert plan.kv_layout == "unified"
    assert plan.devices[0].needed_bytes <= plan.devices[0].free_bytes == limit_bytes


def test_no_request_has_a_longer_context_than_the_model_was_trained_for(paths: Mapping[str, Path]) -> None:
    assert planned(load(paths["full"], n_ctx=1 << 20)).n_ctx == 8192
    assert planned(load(paths["full"], n_ctx=0)).n_ctx == 8192


def test_a_model_of_vectors_is_planned_without_cells(paths: Mapping[str, Path]) -> None:
    plan = planned(load(paths["gemma-embedding"]))
    assert (plan.kv_layout, plan.kv_cells, plan.cell_bytes, plan.n_ctx) == ("", 0, 0, 2048)
    assert plan.devices[0].compute_bytes > 0


def test_a_file_that_is_no_model_has_no_plan(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LoadFailed, match="could not load"):
        plan_load(load(tmp_path / "no.gguf"))


def test_without_numbers_of_libllama_each_sequence_gets_cells_of_its_own(
    paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_planner, "can_dry_run", lambda: False)
    order = load(paths["full"])
    assert plan_load(order) is None
    settled = settle_context(order, None, native_context=1024)
    assert (settled.kv_layout, settled.n_ctx) == ("per_sequence", 1024)
    pool = settle_context(load(paths["full"], kv_cells=512), None, native_context=1024)
    assert (pool.kv_layout, pool.kv_cells) == ("unified", 512)


def test_the_context_is_the_planned_one(paths: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    leave_free(monkeypatch, 6 * MIB)
    order = load(paths["full"], seats=16)
    plan = planned(order)
    settled = settle_context(order, plan, native_context=plan.native_context)
    assert (settled.kv_layout, settled.kv_cells, settled.n_ctx) == (plan.kv_layout, plan.kv_cells, plan.n_ctx)
