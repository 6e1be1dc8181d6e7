"""The tables of `--query-gpu`, which nvidia-smi and xpu-smi (2.0 and later) have in common. Pure: text in, structs out.

A field that a device does not have (`[N/A]` on parts without memory of their own) becomes 0 or "unknown". A row is
dropped only if it is cut short or does not name a device. `docs/reference/wire-contract.md#devices` has the reasons.
"""

import re
from collections.abc import Sequence
from typing import Final

from neuron_lib.types import Device, DeviceHealth

__all__ = (
    "HEALTH_FIELDS",
    "UNKNOWN",
    "device_index",
    "number",
    "parse_device_health",
    "parse_devices",
    "parse_driver_version",
    "query",
    "small_number",
    "split_rows",
    "unknown_field",
)

HEALTH_FIELDS: Final = ("index", "memory.used", "memory.free", "utilization.gpu", "temperature.gpu")
UNKNOWN: Final = "unknown"
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_INDEX: Final = re.compile(r"[0-9]{1,4}")
_SMALL: Final = 255
_HIGHEST_INDEX: Final = 1023
"""Loads name no higher one, and the gateway drops a whole document with an index of more than 32 bits."""
_UNKNOWN_FIELD: Final = re.compile(r'Field "([a-z_.]{1,100})" is not a valid field')


def query(tool: str, fields: Sequence[str]) -> tuple[str, ...]:
    """The command that prints one line for each device, with these fields, without units. Memory is in MiB."""
    return (tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")


def unknown_field(output: str) -> str | None:
    """The field that an old tool refuses a whole query for. None for every other failure."""
    match = _UNKNOWN_FIELD.search(output)
    return match[1] if match else None


def parse_devices(text: str, fields: Sequence[str]) -> tuple[Device, ...]:
    """The devices in the output of `query(…, fields)`. `fields` begins with `index`. Memory is in MiB.

    Of several rows with the same index the first counts.
    """
    devices: dict[int, Device] = {}
    for row in split_rows(text):
        values = _by_field(row, fields)
        if values is not None and (index := device_index(values["index"])) is not None:
            device = Device(
                index=index,
                name=_text(values.get("name", "")),
                vram_total_mb=number(values.get("memory.total", "")) or 0,
                compute_capability=_text(values.get("compute_cap", "")),
            )
            devices.setdefault(index, device)
    return tuple(devices.values())


def parse_driver_version(text: str, fields: Sequence[str]) -> str | None:
    """The driver's version, from the first row of the output of `query(…, fields)` that has one, else None."""
    rows = (_by_field(row, fields) for row in split_rows(text))
    versions = (_text(row.get("driver_version", "")) for row in rows if row is not None)
    return next((version for version in versions if version != UNKNOWN), None)


def parse_device_health(text: str) -> tuple[DeviceHealth, ...]:
    """The readings in the output of a query that begins with `HEALTH_FIELDS`.

    Of several rows with the same index the first counts.
    """
    readings: dict[int, DeviceHealth] = {}
    for row in split_rows(text):
        index = device_index(row[0])
        if index is not None and len(row) >= len(HEALTH_FIELDS):
            reading = DeviceHealth(
                index=index,
                vram_used_mb=number(row[1]) or 0,
                vram_free_mb=number(row[2]) or 0,
                utilization_pct=small_number(row[3]),
                temp_c=small_number(row[4]),
            )
            readings.setdefault(index, reading)
    return tuple(readings.values())


def split_rows(text: str) -> list[list[str]]:
    """The fields of each line."""
    return [[field.strip() for field in line.split(",")] for line in text.splitlines() if line.strip()]


def device_index(field: str) -> int | None:
    """The index of a device. None for a text that is not a whole number, or a higher one than loads may name."""
    index = int(field) if _INDEX.fullmatch(field) else None
    return None if index is None or index > _HIGHEST_INDEX else index


def number(field: str) -> int | None:
    """The whole number with which a text begins, at most 999,999,999,999,999. None if it begins with something else."""
    match = _NUMBER.match(field)
    return int(match[0]) if match else None


def small_number(field: str) -> int:
    """The whole number with which a text begins, such as percent or degrees. 0 if there is none, or one above 255."""
    found = number(field) or 0
    return found if found <= _SMALL else 0


def _by_field(row: Sequence[str], fields: Sequence[str]) -> dict[str, str] | None:
    """The values of a row by their fields. None for a row that is cut short.

    The name of a product may contain a comma. The other fields do not.
    """
    surplus = len(row) - len(fields)
    if surplus < 0:
        return None
    at = fields.index("name") if "name" in fields else len(fields) - 1
    name = ", ".join(row[at : at + surplus + 1])
    return dict(zip(fields, (*row[:at], name, *row[at + surplus + 1 :]), strict=True))


def _text(field: str) -> str:
    return UNKNOWN if not field or field.startswith("[") or field == "N/A" else field
