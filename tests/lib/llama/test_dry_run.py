"""What a dry run says is what a load allocates, for each kind of memory, and nothing is allocated meanwhile."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from neuron_lib.engine.process_stats import bytes_resident
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.context import Context
from neuron_lib.llama.dry_run import Allocation, allocations_of, can_dry_run, dry_context, dry_vector_context
from neuron_lib.llama.model import Model
from neuron_lib.types import ContextParams
from tests.fakes.synthetic_gguf import KINDS, write_synthetic

CONTEXTS = (256, 1000, 8192)


@pytest.fixture(scope="module")
def dry_models(
    synthetic_paths: Mapping[str, Path], synthetic_models: Mapping[str, Model]
) -> Iterator[dict[str, Model]]:
    models = {
        kind: Model(path, gpu_layers=0, on_progress=lambda _: True, is_dry=True)
        for kind, path in synthetic_paths.items()
    }
    yield models
    for model in models.values():
        model.__exit__(None, None, None)


def params(n_ctx: int, *, unified: bool) -> ContextParams:
    layout = "unified" if unified else "per_sequence"
    return ContextParams(n_ctx=n_ctx, n_ubatch=64, threads=1, kv_layout=layout)  # type: ignore[arg-type]  # one of two


def test_this_libllama_says_what_it_would_allocate() -> None:
    assert can_dry_run()


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("n_ctx", CONTEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_dry_run_says_what_a_context_takes(
    dry_models: Mapping[str, Model], synthetic_models: Mapping[str, Model], kind: str, n_ctx: int, *, unified: bool
) -> None:
    planned = dry_context(dry_models[kind], params(n_ctx, unified=unified), seats=3)
    with Context(synthetic_models[kind], params(n_ctx, unified=unified), seats=3) as context:
        real = allocations_of(context.pointer)
    assert planned.keys() == real.keys() == {"cpu"}
    assert (planned["cpu"].context, planned["cpu"].compute) == (real["cpu"].context, real["cpu"].compute)
    # Weights are mapped in one piece, with the gaps between the tensors.
    assert abs(planned["cpu"].weights - real["cpu"].weights) <= 0.03 * real["cpu"].weights


def test_a_dry_run_takes_no_memory_for_cells(dry_models: Mapping[str, Model]) -> None:
    before = bytes_resident()
    planned = dry_context(dry_models["full"], params(8192, unified=False), seats=64)
    assert planned["cpu"].context == 64 * 8192 * 4 * 128
    assert bytes_resident() - before < planned["cpu"].context / 4


def test_the_type_of_the_cells_counts(dry_models: Mapping[str, Model]) -> None:
    asked = ContextParams(n_ctx=1024, n_ubatch=64, threads=1, flash_attn="on", kv_type_k="f32")
    assert dry_context(dry_models["full"], asked, seats=1)["cpu"].context == 1024 * 4 * (128 + 64)


def test_a_model_of_vectors_is_planned_too(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "e.gguf", "gemma-embedding")
    with Model(tmp_path / "e.gguf", gpu_layers=0, on_progress=lambda _: True, is_dry=True) as model:
        few, many = (
            dry_vector_context(model, ContextParams(threads=1), seats=8, n_batch=n_batch)["cpu"]
            for n_batch in (256, 1024)
        )
    assert 0 < few.compute < many.compute
    assert few.weights == many.weights > 0


def test_what_libllama_refuses_is_no_plan(dry_models: Mapping[str, Model]) -> None:
    with pytest.raises(LoadFailed, match="could not plan a context"):
        dry_context(dry_models["full"], params(256, unified=False), seats=10_000)


def test_allocations_add_up() -> None:
    assert Allocation(1, 2, 3) + Allocation(10, 20, 30) == Allocation(11, 22, 33)
    assert Allocation(1, 2, 3).total == 6
