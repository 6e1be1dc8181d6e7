import os
from pathlib import Path

import pytest

from neuron_lib.errors import LoadFailed
from neuron_lib.llamacpp.placement import device_indices, physical_cores, visible_devices
from neuron_lib.types import ModelSpec


def spec(devices: tuple[int, ...] | None = None, split: int | None = None) -> ModelSpec:
    return ModelSpec(model_id="org/name", harness="llamacpp", devices=devices, tensor_parallel=split)


@pytest.mark.parametrize(
    ("devices", "split", "gpus", "indices", "visible"),
    [
        (None, None, 0, (0,), None),
        (None, None, 2, (0,), "0"),
        ((1,), None, 2, (1,), "1"),
        ((0, 1), 2, 2, (0, 1), "0,1"),
        (None, 2, 2, (0, 1), "0,1"),
        (None, 1, 2, (0,), "0"),
        ((), None, 2, (0,), ""),
        ((3,), None, 0, (3,), "3"),
    ],
)
def test_a_spec_means_these_devices(
    devices: tuple[int, ...] | None, split: int | None, gpus: int, indices: tuple[int, ...], visible: str | None
) -> None:
    wanted = spec(devices, split)
    assert device_indices(wanted, gpu_count=gpus) == indices
    environment = visible_devices(wanted, gpu_count=gpus)
    assert environment.get("CUDA_VISIBLE_DEVICES") == visible
    assert environment.get("CUDA_DEVICE_ORDER") == (None if visible is None else "PCI_BUS_ID")


@pytest.mark.parametrize(
    ("devices", "split", "gpus", "complaint"),
    [
        ((0,), 2, 2, "tensor_parallel is 2, but 1"),
        (None, 2, 1, "this host has 1"),
        (None, 2, 0, "this host has 0"),
        ((0, 5), 2, 2, "this host has 2"),
        ((7,), None, 1, "this host has 1"),
        ((1, 1), None, 2, "named twice"),
    ],
)
def test_devices_that_cannot_be_are_refused(
    devices: tuple[int, ...] | None, split: int | None, gpus: int, complaint: str
) -> None:
    with pytest.raises(LoadFailed, match=complaint):
        device_indices(spec(devices, split), gpu_count=gpus)


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for cpu in os.sched_getaffinity(0):
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-1\n", encoding="ascii")
    assert physical_cores(tmp_path) == 1


def test_a_kernel_that_does_not_say_counts_every_cpu(tmp_path: Path) -> None:
    assert physical_cores(tmp_path) == len(os.sched_getaffinity(0))
