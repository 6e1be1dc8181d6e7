"""The plan of a load is what the load then takes, within 3 % on each device, for real models at three contexts."""

import os
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from benchmarks.subject import MODELS, joined_model
from neuron_lib.config import AdmissionConfig, LlamaCppConfig, ModelEntry
from neuron_lib.engine.memory_planner import plan_load, settle_context
from neuron_lib.engine.protocol import Load
from neuron_lib.llama.bindings import init_backend, route_logs
from neuron_lib.llama.context import Context
from neuron_lib.llama.dry_run import allocations_of
from neuron_lib.llama.model import Model
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.types import Complete, ContextParams, ModelSpec

pytestmark = pytest.mark.model

CONTEXTS = (256, 1024, 4096)
SEATS = 3
SPEC = ModelSpec(model_id="org/demo", harness="llamacpp")


@pytest.fixture(scope="module", params=sorted(MODELS))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [package for package in MODELS[request.param] if find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    return joined_model(request.param, tmp_path_factory.mktemp("measured"))


def test_what_libllama_allocates_is_what_was_planned(path: Path) -> None:
    init_backend()
    route_logs(lambda _level, _text: None)
    with Model(path, gpu_layers=0, on_progress=lambda _: True) as model:
        for n_ctx in CONTEXTS:
            order = Load(path=str(path), seats=SEATS, context=ContextParams(n_ctx=n_ctx, threads=2), target_step_s=1.0)
            plan = plan_load(order)
            assert plan is not None
            settled = settle_context(order, plan, native_context=model.native_context)
            with Context(model, settled, seats=SEATS) as context:
                measured = allocations_of(context.pointer)
                assert context.n_ctx == plan.n_ctx
            for need in plan.devices:
                taken = measured[need.device]
                planned = need.weights_bytes + need.context_bytes + need.compute_bytes
                assert abs(planned - taken.total) <= 0.03 * taken.total
                assert need.context_bytes == taken.context
                assert need.compute_bytes == taken.compute


@pytest.mark.anyio
async def test_an_engine_never_takes_more_than_was_planned(path: Path) -> None:
    config = LlamaCppConfig(n_ctx=512, threads=2, admission=AdmissionConfig(max_in_flight=SEATS))
    harness = LlamaCppHarness(config, models=(ModelEntry(id="org/demo", path=path),), environ=os.environ)
    plan = await harness.estimate(SPEC)
    (cpu,) = plan.devices
    async with harness.open(SPEC, model_id="org/demo", report=lambda _: None) as model:
        (engine,) = psutil.Process().children()
        loaded_bytes = engine.memory_info().rss
        most = Complete(model_id="org/demo", prompt="a b c " * 160)  # nearly a whole context, and the reply fills it
        async with model.run(most) as reply:
            async for _ in reply:
                pass
        used_bytes = engine.memory_info().rss
    # Buffers are resident only as far as they have been used.
    assert loaded_bytes <= used_bytes <= cpu.needed_bytes
    assert loaded_bytes >= 0.9 * (cpu.weights_bytes + cpu.context_bytes + cpu.process_bytes)
