"""Parses the JSON of `rocm-smi`. Pure: text in, structs out, no errors.

The tool prints warnings before the JSON, writes numbers as text, and has changed the names of some keys. What a device
does not have becomes 0 or "unknown".
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from neuron_lib.discovery.query_gpu import UNKNOWN, number, small_number
from neuron_lib.types import Device, DeviceHealth

__all__ = ("DEVICE_QUERY", "HEALTH_QUERY", "parse_device_health", "parse_devices", "parse_driver_version")

DEVICE_QUERY: Final = ("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--showdriverversion", "--json")
HEALTH_QUERY: Final = ("rocm-smi", "--showmeminfo", "vram", "--showuse", "--showtemp", "--json")

_CARD: Final = re.compile(r"card([0-9]{1,4})")
_NAMES: Final = ("Card Series", "Card series", "Device Name", "Card Model", "Card model")
_TEMPERATURES: Final = tuple(f"Temperature (Sensor {sensor}) (C)" for sensor in ("edge", "junction", "memory"))
_MIB: Final = 1 << 20


def parse_devices(text: str) -> tuple[Device, ...]:
    """The devices in the output of `DEVICE_QUERY`. The capability is the name of the architecture, such as `gfx942`."""
    return tuple(
        Device(
            index=index,
            name=_text(card, *_NAMES),
            vram_total_mb=_mib(card, "VRAM Total Memory (B)"),
            compute_capability=_text(card, "GFX Version"),
        )
        for index, card in _cards(text).items()
    )


def parse_driver_version(text: str) -> str | None:
    """The version of the kernel's driver in the output of `DEVICE_QUERY`. None if there is none."""
    version = _text(_object(text).get("system"), "Driver version")
    return None if version == UNKNOWN else version


def parse_device_health(text: str) -> tuple[DeviceHealth, ...]:
    """The readings in the output of `HEALTH_QUERY`."""
    readings = []
    for index, card in _cards(text).items():
        total, used = _mib(card, "VRAM Total Memory (B)"), _mib(card, "VRAM Total Used Memory (B)")
        readings.append(
            DeviceHealth(
                index=index,
                vram_used_mb=used,
                vram_free_mb=max(0, total - used),
                utilization_pct=small_number(_value(card, "GPU use (%)")),
                temp_c=small_number(_value(card, *_TEMPERATURES)),
            )
        )
    return tuple(readings)


def _object(text: str) -> Mapping[str, Any]:
    begin = text.find("{")
    try:
        decoded = msgspec.json.decode(text[begin:].strip()) if begin >= 0 else None
    except (msgspec.DecodeError, RecursionError):
        decoded = None
    return decoded if isinstance(decoded, dict) else {}


def _cards(text: str) -> dict[int, Any]:
    found = ((_CARD.fullmatch(key), card) for key, card in _object(text).items())
    return {int(match[1]): card for match, card in found if match}


def _value(card: object, *keys: str) -> str:
    """The first of these values that says something."""
    values = (str(card[key]).strip() for key in keys if key in card) if isinstance(card, dict) else ()
    return next((value for value in values if value and value != "N/A"), "")


def _text(card: object, *keys: str) -> str:
    return _value(card, *keys) or UNKNOWN


def _mib(card: object, key: str) -> int:
    return (number(_value(card, key)) or 0) // _MIB
