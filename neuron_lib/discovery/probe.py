"""Looks once at the hardware of this host. A host without a usable GPU is a normal result and not an error."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
from msgspec.structs import replace

from neuron_lib.discovery.nvidia import (
    DEVICE_QUERY,
    driver_mismatch,
    parse_cuda_version,
    parse_devices,
    parse_driver_version,
)
from neuron_lib.discovery.tool import RunTool, ToolOutput, run_tool
from neuron_lib.logs import get_logger
from neuron_lib.types import Discovery

__all__ = ("discover", "undiscovered")

logger = get_logger(__name__)

_KERNEL_MODULE: Final = Path("/proc/driver/nvidia/version")


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


async def discover(
    *,
    harnesses: Sequence[str],
    max_prompt_tokens: int,
    run: RunTool = run_tool,
    kernel_module: Path = _KERNEL_MODULE,
    look: int = 1,
) -> Discovery:
    """Look at the hardware once. Takes as long as the slowest tool; `run` bounds each tool to some seconds.

    A half-updated NVIDIA driver becomes `cuda_unavailable_reason`, which tells the operator to reboot. If there is an
    `nvidia-smi` that names no device, the result has no `max_prompt_tokens`: the hardware has not been seen, and
    another look may see it. `look` is the number of this look. The failure of the first look is a WARNING, the failure
    of a later one a DEBUG line. Never raises because of a tool.
    """
    answers: dict[str, ToolOutput | None] = {}

    async def ask(*command: str) -> None:
        answers[command[0]] = await run(command)

    async with anyio.create_task_group() as tools:
        tools.start_soon(ask, *DEVICE_QUERY)
        tools.start_soon(ask, "nvcc", "--version")
    smi, nvcc = answers["nvidia-smi"], answers["nvcc"]
    rows = smi.stdout if smi and not smi.problem else ""
    devices = parse_devices(rows)
    reason = await _cuda_unavailable_reason(smi, kernel_module)
    is_seen = True
    if smi is None:
        logger.info("no nvidia-smi: this host computes on its CPU")
    elif reason:
        logger.error("%s", reason)
    elif smi.problem or not devices:
        is_seen = False
        logger.log(
            logging.WARNING if look == 1 else logging.DEBUG,
            "no GPU is seen, looking again: %s",
            smi.problem or "nvidia-smi lists none",
            extra={"look": look, "stderr": smi.stderr},
        )
    elif len(devices) < len(rows.splitlines()):
        logger.warning("nvidia-smi printed rows that name no device: %r", rows)
    return replace(
        undiscovered(harnesses),
        devices=devices,
        max_prompt_tokens=max_prompt_tokens if is_seen else None,
        cuda_version=parse_cuda_version(nvcc.stdout) if nvcc else None,
        driver_version=parse_driver_version(rows),
        cuda_unavailable_reason=reason,
    )


async def _cuda_unavailable_reason(smi: ToolOutput | None, kernel_module: Path) -> str | None:
    if smi is None or smi.problem is None:
        return None
    try:
        module = await anyio.Path(kernel_module).read_text(errors="replace")
    except OSError:
        module = ""
    return driver_mismatch(f"{smi.stdout}\n{smi.stderr}", kernel_module=module)
