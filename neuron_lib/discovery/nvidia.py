"""Parses the output of `nvidia-smi`, `nvcc` and the kernel module. Pure: text in, structs out, no errors.

A field that a device does not have (`[N/A]` on parts without memory of their own) becomes 0 or "unknown". A row is
dropped only if it is cut short or does not name a device. `docs/reference/wire-contract.md#devices` has the reasons.
"""

import re
from typing import Final

from neuron_lib.types import Device, DeviceHealth

__all__ = (
    "DEVICE_QUERY",
    "HEALTH_QUERY",
    "driver_mismatch",
    "parse_cuda_version",
    "parse_device_health",
    "parse_devices",
    "parse_driver_version",
)

_FORMAT: Final = "--format=csv,noheader,nounits"
DEVICE_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,compute_cap,driver_version",
    _FORMAT,
)
"""The command prints one line for each device, for `parse_devices` and `parse_driver_version`."""
HEALTH_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=index,memory.used,memory.free,utilization.gpu,temperature.gpu",
    _FORMAT,
)
"""The command prints one line for each device, for `parse_device_health`."""

_DEVICE_FIELDS: Final = 5
_UNKNOWN: Final = "unknown"
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_MISMATCH: Final = "Driver/library version mismatch"


def parse_devices(text: str) -> tuple[Device, ...]:
    """The devices in the output of `DEVICE_QUERY`. Memory is in MiB."""
    devices = []
    for row in _rows(text):
        if len(row) >= _DEVICE_FIELDS and (index := _number(row[0])) is not None:
            # A product name may contain a comma. The other fields do not.
            name, (vram, capability, _driver) = ", ".join(row[1:-3]), row[-3:]
            devices.append(
                Device(
                    index=index,
                    name=_text(name),
                    vram_total_mb=_number(vram) or 0,
                    compute_capability=_text(capability),
                )
            )
    return tuple(devices)


def parse_driver_version(text: str) -> str | None:
    """The driver's version, from the first row of the output of `DEVICE_QUERY` that has one, else None."""
    versions = (_text(row[-1]) for row in _rows(text) if len(row) >= _DEVICE_FIELDS)
    return next((version for version in versions if version != _UNKNOWN), None)


def parse_device_health(text: str) -> tuple[DeviceHealth, ...]:
    """The readings in the output of `HEALTH_QUERY`. A row that begins with a number is a device."""
    readings = []
    for row in _rows(text):
        index, *values = (_number(field) for field in row)
        if index is not None:
            used, free, utilization, temperature = (*(value or 0 for value in values), 0, 0, 0, 0)[:4]
            readings.append(
                DeviceHealth(
                    index=index,
                    vram_used_mb=used,
                    vram_free_mb=free,
                    utilization_pct=utilization,
                    temp_c=temperature,
                )
            )
    return tuple(readings)


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
        f"{library[1] if library else _UNKNOWN}, kernel module {module[1] if module else _UNKNOWN}): "
        "CUDA cannot be used until this host is rebooted. Reboot the host."
    )


def _rows(text: str) -> list[list[str]]:
    return [[field.strip() for field in line.split(",")] for line in text.splitlines() if line.strip()]


def _number(field: str) -> int | None:
    match = _NUMBER.match(field)
    return int(match[0]) if match else None


def _text(field: str) -> str:
    return _UNKNOWN if not field or field.startswith("[") else field
