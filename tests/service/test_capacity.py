import os

import pytest

from neuron_lib.types import Device
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
