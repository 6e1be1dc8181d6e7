"""What is special about NVIDIA: CUDA's version, half-updated drivers, and GPUs that are split by MIG. Pure: text in,
structs out, no errors.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from xml.etree import ElementTree as ET

from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.discovery.query_gpu import HEALTH_FIELDS, UNKNOWN, device_index, number, query, split_rows
from neuron_lib.types import Device, DeviceHealth

__all__ = (
    "DETAILS_QUERY",
    "DEVICE_FIELDS",
    "DEVICE_QUERY",
    "HEALTH_QUERY",
    "MIG_QUERY",
    "MigInstance",
    "driver_mismatch",
    "parse_cuda_version",
    "parse_instances",
    "parse_split",
    "with_instances",
    "with_instances_now",
)

DEVICE_FIELDS: Final = ("index", "name", "memory.total", "compute_cap", "driver_version")
DEVICE_QUERY: Final = query("nvidia-smi", DEVICE_FIELDS)
"""The command prints one line for each device, for `parse_devices` and `parse_driver_version`."""
HEALTH_QUERY: Final = query("nvidia-smi", (*HEALTH_FIELDS, "mig.mode.current"))
"""The command prints one line for each device, for `parse_device_health` and `parse_split`."""
MIG_QUERY: Final = query("nvidia-smi", ("index", "mig.mode.current"))
"""The command prints one line for each device, for `parse_split`. Drivers before MIG refuse it."""
DETAILS_QUERY: Final = ("nvidia-smi", "-q", "-x")
"""The command prints everything as XML, for `parse_instances`. It takes longer than the others."""

_MISMATCH: Final = "Driver/library version mismatch"


class MigInstance(Struct, frozen=True):
    """A part of a GPU that is split by MIG. Memory is in MiB."""

    total_mb: int
    used_mb: int
    free_mb: int


def parse_cuda_version(text: str) -> str | None:
    """The release in the output of `nvcc --version`, such as `12.4`. None if the output names none."""
    release = re.search(r"\brelease (\d[\d.]*\d|\d)", text)
    return release[1] if release else None


def driver_mismatch(output: str, *, kernel_module: str) -> str | None:
    """A sentence about a half-updated driver that says what to do. None for every other failure of `nvidia-smi`.

    `output` is everything that the tool printed. `kernel_module` is the content of `/proc/driver/nvidia/version`.
    """
    if _MISMATCH not in output:
        return None
    library = re.search(r"NVML library version:\s*(\S+)", output)
    module = re.search(r"NVRM version:.*?(?<![\w.])(\d+(?:\.\d+)+)", kernel_module)
    return (
        f"the NVIDIA driver was updated while its old kernel module is loaded (library "
        f"{library[1] if library else UNKNOWN}, kernel module {module[1] if module else UNKNOWN}): "
        "CUDA cannot be used until this host is rebooted. Reboot the host."
    )


def parse_split(text: str) -> frozenset[int]:
    """The indices of the GPUs that are split by MIG, from the output of `MIG_QUERY` or `HEALTH_QUERY`."""
    rows = split_rows(text)
    return frozenset(index for row in rows if row[-1] == "Enabled" and (index := device_index(row[0])) is not None)


def parse_instances(text: str) -> Mapping[int, Sequence[MigInstance]]:
    """The instances of each GPU in the output of `DETAILS_QUERY`, by the GPU's index. Empty for what is no XML."""
    try:
        gpus = ET.fromstring(text).findall("gpu")  # noqa: S314 - from the vendor's tool, which we start
    except (ET.ParseError, ValueError):
        return {}
    return {index: tuple(map(_instance, gpu.iterfind("mig_devices/mig_device"))) for index, gpu in enumerate(gpus)}


def with_instances(
    devices: Sequence[Device], split: frozenset[int], instances: Mapping[int, Sequence[MigInstance]]
) -> tuple[Device, ...]:
    """The devices with what a process can use of those in `split`: the memory of their first instance.

    A process that uses CUDA sees a single instance, whatever instances there are. A GPU without instances that are
    known has a memory of 0.
    """
    return tuple(
        replace(
            device,
            name=f"{device.name} (MIG, 1 of {len(parts)} instances)",
            vram_total_mb=parts[0].total_mb if parts else 0,
        )
        if device.index in split
        else device
        for device in devices
        for parts in [instances.get(device.index, ())]
    )


def with_instances_now(
    readings: Sequence[DeviceHealth], split: frozenset[int], instances: Mapping[int, Sequence[MigInstance]]
) -> tuple[DeviceHealth, ...]:
    """The readings with the memory of the first instance of each GPU in `split`; see `with_instances`."""
    return tuple(
        replace(
            reading,
            vram_used_mb=parts[0].used_mb if parts else 0,
            vram_free_mb=parts[0].free_mb if parts else 0,
        )
        if reading.index in split
        else reading
        for reading in readings
        for parts in [instances.get(reading.index, ())]
    )


def _instance(part: ET.Element) -> MigInstance:
    memory = (number(part.findtext(f"fb_memory_usage/{kind}", "").strip()) or 0 for kind in ("total", "used", "free"))
    return MigInstance(*memory)
