"""Reads what `nvidia-smi`, `nvcc` and the kernel module print. Pure: text in, structs out, nothing raised.

Fields a device does not have (`[N/A]` on parts without their own memory) become 0 or "unknown"; a row is dropped only
when it is cut short or does not say which device it is.
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
"""Prints one line for each device, for `parse_devices` and `parse_driver_version` (contract §8)."""
HEALTH_QUERY: Final = (
    "nvidia-smi",
    "--query-gpu=index,memory.used,memory.free,utilization.gpu,temperature.gpu",
    _FORMAT,
)
"""Prints one line for each device, for `parse_device_health` (contract §8)."""

_DEVICE_FIELDS: Final = 5
_UNKNOWN: Final = "unknown"
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_MISMATCH: Final = "Driver/library version mismatch"


def parse_devices(text: str) -> tuple[Device, ...]:
    """Read the answer to `DEVICE_QUERY`; memory in MiB."""
    devices = []
    for row in _rows(text):
        if len(row) >= _DEVICE_FIELDS and (index := _number(row[0])) is not None:
            # A product name may hold a comma; the fields around it do not.
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
    """Read the driver's version from the first row of the answer to `DEVICE_QUERY`."""
    versions = (_text(row[-1]) for row in _rows(text) if len(row) >= _DEVICE_FIELDS)
    return next((version for version in versions if version != _UNKNOWN), None)


def parse_device_health(text: str) -> tuple[DeviceHealth, ...]:
    """Read the answer to `HEALTH_QUERY`."""
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
    """Read the release out of what `nvcc --version` prints, such as `12.4`."""
    release = re.search(r"\brelease (\d[\d.]*\d|\d)", text)
    return release[1] if release else None


def driver_mismatch(output: str, *, kernel_module: str) -> str | None:
    """Explain a half-updated driver, or return None for every other failure of `nvidia-smi` (contract §8).

    `output` is everything the tool printed, `kernel_module` the content of `/proc/driver/nvidia/version`.
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
