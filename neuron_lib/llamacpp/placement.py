"""Where a model runs: which devices its process may see, how many threads it takes. Pure but for one look at /sys."""

import os
from pathlib import Path

from neuron_lib.errors import LoadFailed
from neuron_lib.types import ModelSpec

__all__ = ("device_indices", "physical_cores", "visible_devices")


def device_indices(spec: ModelSpec, *, gpu_count: int) -> tuple[int, ...]:
    """The devices a spec means, as `/models` lists them: the named ones, else the first `tensor_parallel`, else the
    first (wire contract §1.5). A CPU counts as device 0, because the gateway wants one.

    Raises `LoadFailed` for a device that is named twice or is not there, and where `tensor_parallel` and `devices`
    contradict each other: to ignore it would serve a model elsewhere, or far more slowly, than somebody planned. A
    host without GPUs takes any `devices` for its CPU.
    """
    split = spec.tensor_parallel or 1
    devices = spec.devices or tuple(range(split))
    if spec.tensor_parallel and len(devices) != split:
        raise LoadFailed(f"tensor_parallel is {split}, but {len(devices)} devices are given", devices=devices)
    if len(set(devices)) < len(devices):
        raise LoadFailed(f"a device is named twice: {devices}", devices=devices)
    if max(devices) >= gpu_count and (gpu_count > 0 or split > 1):
        raise LoadFailed(f"devices {devices} are asked for, this host has {gpu_count}", devices=devices, gpus=gpu_count)
    return devices


def visible_devices(spec: ModelSpec, *, gpu_count: int) -> dict[str, str]:
    """Environment that confines an engine to the spec's devices; an empty `devices` list means the CPU."""
    if spec.devices is None and gpu_count == 0:
        return {}
    devices = () if spec.devices == () else device_indices(spec, gpu_count=gpu_count)
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
        # Indices are nvidia-smi's, which counts along the bus; CUDA by itself puts the fastest card first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> int:
    """Cores this process may use, hyper-threads counted once: they share the units that decoding keeps busy."""
    usable = os.sched_getaffinity(0)
    siblings = set()
    for cpu in usable:
        try:
            siblings.add((topology / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii"))
        except OSError:
            return len(usable)
    return len(siblings)
