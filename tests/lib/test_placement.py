import os
from pathlib import Path

import psutil
import pytest

from neuron_lib.errors import LoadFailed
from neuron_lib.placement import (
    Core,
    default_threads,
    device_indices,
    memory_bytes,
    openmp_environment,
    physical_cores,
    visible_devices,
)
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
    assert environment.get("HIP_VISIBLE_DEVICES") == ("-1" if visible == "" else visible)
    assert environment.get("ZE_AFFINITY_MASK") == (visible or None)


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


@pytest.mark.parametrize(
    ("devices", "split", "gpu_memory_mb", "memory_mb"),
    [
        (None, None, [24, 16], 24),
        ((1,), None, [24, 16], 16),
        (None, 2, [24, 16], 40),
        ((), None, [24], None),
        (None, None, [], None),
        ((3,), None, [], None),
        (None, None, [0], None),  # such as a GB10, whose nvidia-smi says [N/A]
    ],
)
def test_the_memory_for_a_model_is_that_of_its_gpus_else_that_of_the_host(
    devices: tuple[int, ...] | None,
    split: int | None,
    gpu_memory_mb: list[int],
    memory_mb: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neuron_lib.usable_memory.limit_of_cgroups", lambda: None)
    host = psutil.virtual_memory().total
    expected = host if memory_mb is None else memory_mb << 20
    assert memory_bytes(spec(devices, split), gpu_memory_mb=gpu_memory_mb) == expected


@pytest.mark.parametrize(("limit", "counts"), [(1 << 30, True), (1 << 62, False)])
def test_a_container_has_the_memory_that_its_limit_leaves_it(
    monkeypatch: pytest.MonkeyPatch, limit: int, *, counts: bool
) -> None:
    monkeypatch.setattr("neuron_lib.usable_memory.limit_of_cgroups", lambda: limit)
    assert memory_bytes(spec(None), gpu_memory_mb=()) == (limit if counts else psutil.virtual_memory().total)


def test_hyper_threads_of_one_core_count_once(tmp_path: Path) -> None:
    usable = sorted(os.sched_getaffinity(0))
    for cpu in usable:
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-1\n", encoding="ascii")
    assert physical_cores(tmp_path) == (tuple(usable),)


def test_a_kernel_that_does_not_say_counts_every_cpu(tmp_path: Path) -> None:
    assert physical_cores(tmp_path) == tuple((cpu,) for cpu in sorted(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("quota", "threads"), [(None, 4), (16.0, 4), (4.0, 4), (3.9, 3), (2.0, 2), (1.5, 1), (1.0, 1), (0.1, 1)]
)
def test_there_is_a_thread_for_each_core_that_the_control_groups_give_time_for(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, threads: int
) -> None:
    monkeypatch.setattr("neuron_lib.placement.physical_cores", lambda: ((0,), (1,), (2,), (3,)))
    monkeypatch.setattr("neuron_lib.placement.cpus_of_cgroups", lambda: quota)
    assert default_threads() == threads


@pytest.mark.parametrize(
    ("threads", "cores", "places", "spins"),
    [
        (2, ((0,), (1,)), "{0},{1}", "20000"),
        (2, ((0, 4), (1, 5)), "{0,4},{1,5}", "20000"),
        (1, ((3,),), "{3}", "20000"),
        (1, ((0,), (1,)), None, "1000"),
        (3, ((0,), (1,)), None, "1000"),
        (2, (), None, "1000"),
    ],
)
def test_threads_are_bound_to_cores_where_each_has_one_and_else_soon_sleep_while_they_wait(
    threads: int, cores: tuple[Core, ...], places: str | None, spins: str
) -> None:
    environment = openmp_environment({}, threads=threads, cores=cores)
    assert environment.get("OMP_PLACES") == places
    assert environment.get("OMP_PROC_BIND") == (None if places is None else "true")
    assert environment["GOMP_SPINCOUNT"] == spins


@pytest.mark.parametrize(
    ("environ", "set_by_neuron"),
    [
        ({"GOMP_SPINCOUNT": "5"}, {"OMP_PLACES", "OMP_PROC_BIND"}),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_PLACES", "OMP_PROC_BIND"}),
        ({"OMP_PROC_BIND": "false"}, {"GOMP_SPINCOUNT"}),
        ({"OMP_PLACES": "cores"}, {"GOMP_SPINCOUNT"}),
        ({"GOMP_CPU_AFFINITY": "1 0"}, {"GOMP_SPINCOUNT"}),
        ({"GOMP_CPU_AFFINITY": "1 0", "GOMP_SPINCOUNT": "5"}, set()),
    ],
)
def test_what_the_operator_says_about_openmp_goes_before(environ: dict[str, str], set_by_neuron: set[str]) -> None:
    environment = openmp_environment(environ, threads=2, cores=((0,), (1,)))
    assert environment.keys() == set_by_neuron
    assert environment.get("GOMP_SPINCOUNT") != "20000" or "OMP_PLACES" in environment
