"""Where a model runs: which devices its process sees, and on which cores its threads run. Asks the kernel for facts."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from neuron_lib.cgroups import cpus_of_cgroups
from neuron_lib.errors import LoadFailed, SourceUnavailable
from neuron_lib.shown import brief
from neuron_lib.types import ModelSpec, RpcDevice, public_id
from neuron_lib.usable_memory import usable_bytes

__all__ = (
    "MORE_THAN_ALL_GPUS",
    "Core",
    "HostDevices",
    "default_threads",
    "device_indices",
    "memory_bytes",
    "needs_more_than_gpus",
    "openmp_environment",
    "physical_cores",
    "visible_devices",
)

MORE_THAN_ALL_GPUS: Final = 1025
"""A number of GPUs for a check that does not know how many a host has. A spec names at most index 1023."""

Core = tuple[int, ...]
"""The CPUs of one physical core: one, or its hyper-threads."""

_SPINS_BOUND: Final = "20000"
_SPINS_LOOSE: Final = "1000"
_BINDING_VARIABLES: Final = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")


def device_indices(spec: ModelSpec, *, gpu_count: int) -> tuple[int, ...]:
    """The devices that a spec means: the named ones, else the first `tensor_parallel`, else the first.

    A CPU counts as device 0. On a host without GPUs any `devices` mean the CPU. Raises `LoadFailed` for a device that
    is named twice or does not exist, and where `tensor_parallel` and `devices` contradict each other. If such a spec
    were accepted, the model would run elsewhere, or far more slowly, than the operator planned.
    """
    split = spec.tensor_parallel or 1
    devices = _asked(spec)
    if spec.tensor_parallel and len(devices) != split:
        raise LoadFailed(f"tensor_parallel is {split}, but {len(devices)} devices are given", devices=devices)
    if len(set(devices)) < len(devices):
        raise LoadFailed(f"a device is named twice: {brief(devices)}", devices=devices)
    if max(devices) >= gpu_count and (gpu_count > 0 or split > 1):
        raise LoadFailed(
            f"devices {brief(devices)} are asked for, this host has {gpu_count}", devices=devices, gpus=gpu_count
        )
    return devices


class HostDevices(Struct, frozen=True, kw_only=True):
    """The devices of a host, numbered from 0: its GPUs, then the devices of its RPC servers.

    `gpu_memory_mb` and `rpc_memory_mb` are their memory in MiB. `missing` says why there may be devices after those,
    such as a server that does not answer; "" if these are all.
    """

    gpu_memory_mb: tuple[int, ...] = ()
    rpc: tuple[RpcDevice, ...] = ()
    rpc_memory_mb: tuple[int, ...] = ()
    missing: str = ""

    @property
    def memory_mb(self) -> tuple[int, ...]:
        """The memory of all devices in MiB."""
        return self.gpu_memory_mb + self.rpc_memory_mb

    def indices(self, spec: ModelSpec, *, gpu_layers: int) -> tuple[int, ...]:
        """The devices that hold layers of the model; none for a model on the CPU.

        Raises `SourceUnavailable` if they are among the devices that are missing, and what `device_indices` raises.
        """
        count = len(self.memory_mb)
        if not needs_more_than_gpus(spec, gpu_count=len(self.gpu_memory_mb)):
            count = len(self.gpu_memory_mb)
        elif self.missing and max(_asked(spec)) >= count:
            model_id = public_id(spec.model_id)
            text = f"{model_id}: devices {brief(_asked(spec))} are asked for, and {self.missing}"
            raise SourceUnavailable(text, model_id=model_id)
        named = device_indices(spec, gpu_count=count)
        return named if count and gpu_layers and spec.devices != () else ()

    def gpus(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Those of the devices that are GPUs of this host."""
        return tuple(index for index in indices if index < len(self.gpu_memory_mb))

    def rpc_indices(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Those of the devices that RPC servers have."""
        return tuple(index for index in indices if index >= len(self.gpu_memory_mb))

    def rpc_devices(self, indices: Sequence[int]) -> tuple[RpcDevice, ...]:
        """Where the devices of RPC servers are."""
        return tuple(self.rpc[index - len(self.gpu_memory_mb)] for index in self.rpc_indices(indices))


def needs_more_than_gpus(spec: ModelSpec, *, gpu_count: int) -> bool:
    """Whether a spec names a device that no GPU of the host is, so one of an RPC server if there are any.

    A spec that names no device never means an RPC server.
    """
    return bool(spec.devices or spec.tensor_parallel) and max(_asked(spec)) >= gpu_count


def _asked(spec: ModelSpec) -> tuple[int, ...]:
    return spec.devices or tuple(range(spec.tensor_parallel or 1))


def memory_bytes(spec: ModelSpec, *, gpu_memory_mb: Sequence[int]) -> int:
    """All the memory of the devices that a spec means, in bytes, whether it is free or not.

    For the CPU that is the host's memory, and so it is for a GPU without memory of its own (0). Memory in use is
    counted, because it changes from hour to hour and must not change which file is the default. Raises what
    `device_indices` raises.
    """
    gpus = () if spec.devices == () or not gpu_memory_mb else device_indices(spec, gpu_count=len(gpu_memory_mb))
    own_bytes = sum(gpu_memory_mb[index] for index in gpus) << 20
    return own_bytes or usable_bytes()


def visible_devices(spec: ModelSpec, *, gpu_count: int, rpc_count: int = 0) -> dict[str, str]:
    """The variables that confine an engine to the GPUs of the spec. Empty `devices` mean the CPU.

    The devices of RPC servers, whose number is `rpc_count`, are no GPUs of this host.
    """
    if spec.devices is None and gpu_count == 0:
        return {}
    devices = () if spec.devices == () else device_indices(spec, gpu_count=gpu_count + rpc_count)
    if rpc_count:
        devices = tuple(index for index in devices if index < gpu_count)
    visible = ",".join(map(str, devices))
    return {
        "CUDA_VISIBLE_DEVICES": visible,
        # The indices are those of nvidia-smi, in the order of the bus. CUDA's own order begins with the fastest card.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HIP_VISIBLE_DEVICES": visible or "-1",  # AMD; -1 hides all
        **({"ZE_AFFINITY_MASK": visible} if visible else {}),  # Intel
    }


def physical_cores(topology: Path = Path("/sys/devices/system/cpu")) -> tuple[Core, ...]:
    """The cores that this process may use. Hyper-threads of one core count once: they share its arithmetic units."""
    usable = sorted(os.sched_getaffinity(0))
    cores: dict[str, list[int]] = {}
    for cpu in usable:
        try:
            siblings = (topology / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
        except OSError:
            return tuple((cpu,) for cpu in usable)
        cores.setdefault(siblings, []).append(cpu)
    return tuple(map(tuple, cores.values()))


def default_threads() -> int:
    """One thread for each physical core that this process may use, but no more than its control groups have CPUs.

    A fraction of a CPU gets no thread. Threads wait for each other after every operation, so all would wait for the
    thread that the kernel stops when the time of a period is used up.
    """
    quota = cpus_of_cgroups()
    cores = len(physical_cores())
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def openmp_environment(environ: Mapping[str, str], *, threads: int, cores: tuple[Core, ...]) -> dict[str, str]:
    """The variables that say where an engine's `threads` run and how they wait for each other.

    A variable that `environ` has is left as it is. The threads wait for each other after every operation, hundreds of
    times a token. If two threads share a core while something else keeps the other cores busy, each wait takes a slice
    of the kernel's scheduler: 300 ms a token instead of 6. So if there is one thread for each of `cores`, each thread
    is bound to its core. Otherwise the kernel chooses, and waiting threads sleep early (measured, see
    docs/explanation/engine.md).
    """
    settings: dict[str, str] = {}
    is_bound = threads == len(cores) and not any(name in environ for name in _BINDING_VARIABLES)
    if is_bound:
        settings["OMP_PROC_BIND"] = "true"
        settings["OMP_PLACES"] = ",".join(f"{{{','.join(map(str, core))}}}" for core in cores)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environ.keys():
        settings["GOMP_SPINCOUNT"] = _SPINS_BOUND if is_bound else _SPINS_LOOSE
    return settings
