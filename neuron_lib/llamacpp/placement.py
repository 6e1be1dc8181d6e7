"""Where a model runs: which devices its process may see, how many threads it takes. Pure but for one look at /sys."""

import os
from pathlib import Path

from neuron_lib.errors import LoadFailed
from neuron_lib.types import ModelSpec

__all__ = ("device_indices", "physical_cores", "visible_devices")


def device_indices(spec: ModelSpec, *, gpu_count: int) -> tuple[int, ...]:
    """The devices a spec means, as `/models` lists them; `(0,)` for a CPU, because the gateway wants one.

    `tensor_parallel` N means a split over N devices. Raises `LoadFailed` where the two contradict each other, or
    the host has not that many: ignoring it would serve a model far more slowly than somebody planned.
    """
    split = spec.tensor_parallel or 1
    if spec.devices and spec.tensor_parallel and len(spec.devices) != split:
        raise LoadFailed(
            f"tensor_parallel is {split}, but {len(spec.devices)} devices are given",
            tensor_parallel=split,
            devices=spec.devices,
        )
    devices = spec.devices or tuple(range(split))
    if split > 1 and max(devices) >= gpu_count:
        raise LoadFailed(f"tensor_parallel {split} needs GPUs {devices}, this host has {gpu_count}", gpus=gpu_count)
    return devices


def visible_devices(spec: ModelSpec, *, gpu_count: int) -> dict[str, str]:
    """Environment that confines an engine to the spec's devices; empty where there is nothing to confine.

    An empty `devices` list on a host with GPUs means the CPU.
    """
    if gpu_count == 0 or (spec.devices is None and spec.tensor_parallel is None):
        return {}
    if spec.devices == ():
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, device_indices(spec, gpu_count=gpu_count)))}


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
