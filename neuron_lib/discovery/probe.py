"""Looks once at the hardware of this host. A host without a usable GPU is a normal result and not an error."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from neuron_lib.discovery.host_memory import read_cpus, read_memory
from neuron_lib.discovery.nvidia import driver_mismatch, parse_cuda_version
from neuron_lib.discovery.tool import RunTool, ToolOutput, run_tool
from neuron_lib.discovery.vendors import VENDORS, DeviceFacts, Vendor
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.types import Device, Discovery

__all__ = ("Found", "choose", "discover", "find_devices", "undiscovered")

logger: FieldLogger = get_logger(__name__)

_KERNEL_MODULE: Final = Path("/proc/driver/nvidia/version")
_LOOKS_WITHOUT_DRIVER: Final = 3
"""How often a tool may name no device before it counts as installed on a host without such devices."""


class Found(Struct, frozen=True, kw_only=True):
    """What the answers of all vendors mean. `problem` says why the devices have not been seen."""

    vendor: Vendor | None = None
    devices: tuple[Device, ...] = ()
    driver_version: str | None = None
    cuda_unavailable_reason: str | None = None
    problem: str | None = None


def choose(answers: Mapping[str, DeviceFacts | None], *, kernel_module: str, look: int) -> Found:
    """The devices of the first vendor that has some, by the names of `VENDORS`.

    A tool of a vendor before that which names no device ends the choice with a `problem`: the driver may be slow. A
    tool that is not decisive does so in the first looks only.
    """
    for vendor in VENDORS:
        facts = answers.get(vendor.name)
        if facts is None:
            continue
        if facts.devices:
            return Found(vendor=vendor, devices=facts.devices, driver_version=facts.driver_version)
        if vendor.name == "NVIDIA":
            printed = f"{facts.output.stdout}\n{facts.output.stderr}" if facts.output.problem else ""
            if reason := driver_mismatch(printed, kernel_module=kernel_module):
                return Found(vendor=vendor, cuda_unavailable_reason=reason)
        if vendor.is_decisive or look <= _LOOKS_WITHOUT_DRIVER:
            return Found(vendor=vendor, problem=facts.problem)
    return Found()


def undiscovered(harnesses: Sequence[str]) -> Discovery:
    """This host without its devices: what is known before any tool has answered.

    The result has no `max_prompt_tokens`. A gateway keeps an answer with that key for good, also one with an empty list
    of devices, and asks again after an answer without it (`docs/reference/wire-contract.md#discovery`).
    """
    system = os.uname()
    return Discovery(
        hostname=system.nodename or "unknown",
        os=system.sysname or "unknown",
        kernel=system.release or "unknown",
        devices=(),
        harnesses=tuple(harnesses),
    )


async def find_devices(
    *, run: RunTool = run_tool, kernel_module: Path = _KERNEL_MODULE, look: int = _LOOKS_WITHOUT_DRIVER + 1
) -> Found:
    """What the vendors' tools say of the devices of this host, without a log line. By default as in a late look."""
    answers: dict[str, DeviceFacts | None] = {}
    await _ask_vendors(run, answers)
    return choose(answers, kernel_module=await _read(kernel_module), look=look)


async def discover(
    *,
    harnesses: Sequence[str],
    max_prompt_tokens: int,
    run: RunTool = run_tool,
    kernel_module: Path = _KERNEL_MODULE,
    look: int = 1,
) -> Discovery:
    """Look at the hardware once. Takes as long as the slowest tool; `run` bounds each tool to some seconds.

    A half-updated NVIDIA driver becomes `cuda_unavailable_reason`, which tells the operator to reboot. If a vendor's
    tool names no device (see `choose`), the result has no `max_prompt_tokens`: the hardware has not been seen, and
    another look may see it. `look` is the number of this look. The failure of the first look is a WARNING, the failure
    of a later one a DEBUG line. Never raises because of a tool.
    """
    answers: dict[str, DeviceFacts | None] = {}
    nvcc: ToolOutput | None = None
    async with anyio.create_task_group() as tools:
        tools.start_soon(_ask_vendors, run, answers)
        nvcc = await run(("nvcc", "--version"))
    found = choose(answers, kernel_module=await _read(kernel_module), look=look)
    _log(found, answers, look)
    memory, cpus = await anyio.to_thread.run_sync(lambda: (read_memory(), read_cpus()))
    return replace(
        undiscovered(harnesses),
        devices=found.devices,
        max_prompt_tokens=None if found.problem else max_prompt_tokens,
        cuda_version=parse_cuda_version(nvcc.stdout) if nvcc else None,
        driver_version=found.driver_version,
        cuda_unavailable_reason=found.cuda_unavailable_reason,
        memory=memory,
        cpus=cpus,
    )


def _log(found: Found, answers: Mapping[str, DeviceFacts | None], look: int) -> None:
    """Say what was found, in one line."""
    facts = answers.get(found.vendor.name) if found.vendor else None
    if facts is None:
        tools = ", ".join(vendor.tool for vendor in VENDORS if answers.get(vendor.name) is not None)
        reason = f"{tools} names no GPU" if tools else f"no {', no '.join(vendor.tool for vendor in VENDORS)}"
        logger.info("%s: this host computes on its CPU", reason)
    elif found.cuda_unavailable_reason:
        logger.error("%s", found.cuda_unavailable_reason)
    elif found.problem:
        logger.log(
            logging.WARNING if look == 1 else logging.DEBUG,
            "no GPU is seen, looking again: %s",
            found.problem,
            extra={"look": look, "stderr": facts.output.stderr},
        )
    elif facts.split:
        text = "split by MIG: GPU %s. A process can use only one instance of a GPU, so the first one counts"
        logger.warning(text, ", ".join(map(str, sorted(facts.split))))
    elif found.vendor == VENDORS[0] and len(found.devices) < len(facts.output.stdout.splitlines()):
        logger.warning("nvidia-smi printed rows that name no device: %r", facts.output.stdout)


async def _ask_vendors(run: RunTool, answers: dict[str, DeviceFacts | None]) -> None:
    """Ask all vendors' tools at the same time, and put what they say into `answers`."""

    async def ask(vendor: Vendor) -> None:
        answers[vendor.name] = await vendor.ask_facts(run)

    async with anyio.create_task_group() as tools:
        for vendor in VENDORS:
            tools.start_soon(ask, vendor)


async def _read(path: Path) -> str:
    try:
        return await anyio.Path(path).read_text(errors="replace")
    except OSError:
        return ""
