"""Asks the tools of the vendors: NVIDIA's, then AMD's, then Intel's. The GPUs of a host are those of one vendor.

A build of llama.cpp computes on the GPUs of one vendor, so the first vendor that has GPUs here counts.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from msgspec import Struct

from neuron_lib.discovery import amd, nvidia, query_gpu
from neuron_lib.discovery.tool import RunTool, ToolOutput
from neuron_lib.types import Device, DeviceHealth

__all__ = ("VENDORS", "DeviceFacts", "DeviceReadings", "Vendor", "ask_readings")

INTEL_DEVICE_FIELDS: Final = ("index", "name", "memory.total", "driver_version")
INTEL_HEALTH_QUERY: Final = query_gpu.query("xpu-smi", query_gpu.HEALTH_FIELDS)


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """What a tool says of the devices. `problem` says why it names none; `output` is all that it printed.

    `split` has the indices of the devices of which a process can use only a part.
    """

    devices: tuple[Device, ...] = ()
    driver_version: str | None = None
    problem: str | None = None
    output: ToolOutput
    split: frozenset[int] = frozenset()


class DeviceReadings(Struct, frozen=True, kw_only=True):
    """What a tool says of the devices now. `problem` says why there are no readings."""

    readings: tuple[DeviceHealth, ...] = ()
    problem: str | None = None


AskFacts: TypeAlias = Callable[[RunTool], Awaitable[DeviceFacts | None]]
AskReadings: TypeAlias = Callable[[RunTool], Awaitable[DeviceReadings | None]]


class Vendor(Struct, frozen=True, kw_only=True):
    """A vendor of GPUs. Both questions return None if the vendor's tool is not installed.

    `is_decisive` says that the tool is installed only where the vendor's driver is, so that a failure means that GPUs
    are not seen yet. Other tools are often installed on hosts without such GPUs.
    """

    name: str
    tool: str
    ask_facts: AskFacts
    ask_readings: AskReadings
    is_decisive: bool


async def ask_readings(run: RunTool, vendors: Sequence[Vendor] | None = None) -> DeviceReadings | None:
    """The readings of the first vendor that has GPUs here. None if no tool of any vendor is installed."""
    failed: DeviceReadings | None = None
    for vendor in VENDORS if vendors is None else vendors:
        answer = await vendor.ask_readings(run)
        if answer is not None and (answer.readings or vendor.is_decisive):
            return answer
        failed = failed or answer
    return failed


async def _query(run: RunTool, tool: str, fields: Sequence[str]) -> tuple[ToolOutput | None, Sequence[str]]:
    """Ask for `fields`, and again without each field that the tool is too old for. Returns the fields of the answer."""
    while True:
        output = await run(query_gpu.query(tool, fields))
        unknown = query_gpu.unknown_field(f"{output.stdout}\n{output.stderr}") if output and output.problem else None
        if unknown not in fields[1:]:
            return output, fields
        fields = [field for field in fields if field != unknown]


async def _ask_nvidia(run: RunTool) -> DeviceFacts | None:
    output, fields = await _query(run, "nvidia-smi", nvidia.DEVICE_FIELDS)
    if output is None:
        return None
    if output.problem is not None:
        return DeviceFacts(problem=output.problem, output=output)
    devices = query_gpu.parse_devices(output.stdout, fields)
    mig = await run(nvidia.MIG_QUERY) if devices else None
    split = nvidia.parse_split(mig.stdout) if mig and not mig.problem else frozenset[int]()
    split &= {device.index for device in devices}
    return DeviceFacts(
        devices=nvidia.with_instances(devices, split, await _instances(run)) if split else devices,
        driver_version=query_gpu.parse_driver_version(output.stdout, fields),
        problem=None if devices else "nvidia-smi lists none",
        output=output,
        split=split,
    )


async def _read_nvidia(run: RunTool) -> DeviceReadings | None:
    output = await run(nvidia.HEALTH_QUERY)
    if output is not None and output.problem and query_gpu.unknown_field(f"{output.stdout}\n{output.stderr}"):
        output, _ = await _query(run, "nvidia-smi", query_gpu.HEALTH_FIELDS)
    if output is None:
        return None
    if output.problem is not None:
        return DeviceReadings(problem=output.problem)
    readings = query_gpu.parse_device_health(output.stdout)
    if split := nvidia.parse_split(output.stdout):
        readings = nvidia.with_instances_now(readings, split, await _instances(run))
    return _readings(readings, "nvidia-smi")


async def _instances(run: RunTool) -> dict[int, Sequence[nvidia.MigInstance]]:
    output = await run(nvidia.DETAILS_QUERY)
    return {} if output is None or output.problem else dict(nvidia.parse_instances(output.stdout))


async def _ask_amd(run: RunTool) -> DeviceFacts | None:
    output = await run(amd.DEVICE_QUERY)
    if output is None:
        return None
    devices = amd.parse_devices(output.stdout)
    return DeviceFacts(
        devices=devices,
        driver_version=amd.parse_driver_version(output.stdout),
        problem=None if devices else output.problem or "rocm-smi lists none",
        output=output,
    )


async def _read_amd(run: RunTool) -> DeviceReadings | None:
    output = await run(amd.HEALTH_QUERY)
    if output is None:
        return None
    return _readings(amd.parse_device_health(output.stdout), "rocm-smi", output.problem)


async def _ask_intel(run: RunTool) -> DeviceFacts | None:
    output, fields = await _query(run, "xpu-smi", INTEL_DEVICE_FIELDS)
    if output is None:
        return None
    devices = () if output.problem else query_gpu.parse_devices(output.stdout, fields)
    return DeviceFacts(
        devices=devices,
        driver_version=query_gpu.parse_driver_version(output.stdout, fields) if devices else None,
        problem=None if devices else output.problem or "xpu-smi lists none",
        output=output,
    )


async def _read_intel(run: RunTool) -> DeviceReadings | None:
    output = await run(INTEL_HEALTH_QUERY)
    if output is None:
        return None
    readings = () if output.problem else query_gpu.parse_device_health(output.stdout)
    return _readings(readings, "xpu-smi", output.problem)


def _readings(readings: tuple[DeviceHealth, ...], tool: str, problem: str | None = None) -> DeviceReadings:
    return DeviceReadings(readings=readings, problem=None if readings else problem or f"{tool} lists no device")


VENDORS: Final = (
    Vendor(name="NVIDIA", tool="nvidia-smi", ask_facts=_ask_nvidia, ask_readings=_read_nvidia, is_decisive=True),
    Vendor(name="AMD", tool="rocm-smi", ask_facts=_ask_amd, ask_readings=_read_amd, is_decisive=False),
    Vendor(name="Intel", tool="xpu-smi", ask_facts=_ask_intel, ask_readings=_read_intel, is_decisive=False),
)
"""In the order in which they count."""
