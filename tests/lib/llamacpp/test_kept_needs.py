"""The memory needs that a harness keeps, because each takes a process."""

from pathlib import Path

import pytest

from neuron_lib.config import LlamaCppConfig, ModelEntry
from neuron_lib.llamacpp import LlamaCppHarness
from neuron_lib.placement import HostDevices
from neuron_lib.types import DeviceNeed, MemoryPlan, ModelSpec

pytestmark = pytest.mark.anyio


class Planner(LlamaCppHarness):
    """A harness whose plans are made up, and counted."""

    def __init__(self, model_file: Path) -> None:
        super().__init__(LlamaCppConfig(), models=(ModelEntry(id="org/small", path=model_file),), environ={})
        self.planned: list[ModelSpec] = []

    async def _plan(self, spec: ModelSpec, host: HostDevices, *, assumes_empty: bool) -> MemoryPlan:
        del host
        assert assumes_empty
        self.planned.append(spec)
        need = DeviceNeed(device="cpu", weights_bytes=1, context_bytes=0, compute_bytes=0, free_bytes=9)
        return MemoryPlan(devices=(need,), layers=1, gpu_layers=0, n_ctx=1, native_context=1, seats=1)


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    (tmp_path / "small.gguf").write_bytes(b"12345")
    return Planner(tmp_path / "small.gguf")


def spec_of(number: int) -> ModelSpec:
    return ModelSpec(model_id="org/small", harness="llamacpp", devices=(number,))


async def test_a_need_is_planned_again_only_for_another_file(planner: Planner, tmp_path: Path) -> None:
    assert [await planner.memory_need(spec_of(0)) for _ in range(2)] == [{"cpu": 1}, {"cpu": 1}]
    assert len(planner.planned) == 1
    (tmp_path / "small.gguf").write_bytes(b"123456")
    await planner.memory_need(spec_of(0))
    assert len(planner.planned) == 2


async def test_of_many_needs_the_latest_are_kept(planner: Planner) -> None:
    for number in range(66):
        await planner.memory_need(spec_of(number))
    planner.planned.clear()
    for number in (2, 64, 65):
        await planner.memory_need(spec_of(number))
    assert planner.planned == []
    await planner.memory_need(spec_of(0))
    assert planner.planned == [spec_of(0)]
