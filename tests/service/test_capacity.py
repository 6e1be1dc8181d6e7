import os

import pytest

from neuron_lib.types import Device, DeviceHealth, ModelInfo, ModelStatus
from neuron_service import capacity

ALL_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_configured_memory_counts() -> None:
    assert capacity.host_memory_bytes(100) == 100 << 20


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, ALL_BYTES), (1000, 1000), (ALL_BYTES * 2, ALL_BYTES)], ids=["none", "low", "high"]
)
def test_otherwise_it_is_nine_tenths_of_what_the_host_or_its_control_group_has(
    monkeypatch: pytest.MonkeyPatch, limit: int | None, expected: int
) -> None:
    monkeypatch.setattr("neuron_lib.usable_memory.limit_of_cgroups", lambda: limit)
    assert capacity.host_memory_bytes(0) == expected * 9 // 10


def test_each_gpu_has_its_memory_and_one_without_memory_of_its_own_has_no_limit() -> None:
    assert capacity.capacity_bytes(7, (24576, 0)) == {"cpu": 7, "gpu0": 24576 << 20}


@pytest.mark.parametrize(("indices", "expected"), [((), ()), ((0, 1), (8000, 8001)), ((0, 2), (8000, 0, 8002))])
def test_a_gpu_keeps_its_index_beside_one_that_its_tool_does_not_list(
    indices: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    devices = [Device(index=each, name="Card", vram_total_mb=8000 + each, compute_capability="8.0") for each in indices]
    assert capacity.gpu_memory_by_index(devices) == expected


def reading(index: int, *, free_mb: int) -> DeviceHealth:
    return DeviceHealth(index=index, vram_used_mb=0, vram_free_mb=free_mb, utilization_pct=0, temp_c=40)


def resident(*devices: int, vram_used_mb: int | None) -> ModelInfo:
    return ModelInfo(id="org/a", harness="h", status=ModelStatus.LOADED, devices=devices, vram_used_mb=vram_used_mb)


def test_models_could_have_what_is_free_on_a_gpu_and_what_they_have() -> None:
    models = [resident(0, vram_used_mb=300), resident(0, 1, vram_used_mb=50), resident(vram_used_mb=None)]
    available = capacity.available_gpu_bytes([reading(0, free_mb=1000), reading(1, free_mb=10)], models)
    assert available == {"gpu0": 1350 << 20, "gpu1": 60 << 20}


def test_a_gpu_with_a_model_whose_memory_is_not_known_is_not_measured() -> None:
    models = [resident(0, vram_used_mb=None), resident(1, vram_used_mb=5)]
    available = capacity.available_gpu_bytes([reading(0, free_mb=1000), reading(1, free_mb=10)], models)
    assert available == {"gpu1": 15 << 20}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("free", "taken", "expected"), [(7, 3, {"cpu": 10}), (None, 3, {}), (7, None, {})], ids=["both", "free", "taken"]
)
async def test_models_could_have_what_is_free_of_the_host_s_memory_and_what_their_engines_have(
    monkeypatch: pytest.MonkeyPatch, free: int | None, taken: int | None, expected: dict[str, int]
) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda: free)
    monkeypatch.setattr(capacity, "bytes_of_children", lambda: taken)
    assert await capacity.available_host_bytes() == expected
