"""Discovery with real processes: tools that answer, fail, hang or are not there."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from neuron_lib.discovery import discover
from neuron_lib.discovery.tool import ToolOutput, run_tool
from neuron_lib.types import Device, Discovery

pytestmark = [pytest.mark.anyio, pytest.mark.process]

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a shell script of that name on a PATH which holds nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("neuron_lib.discovery.tool._KNOWN_PLACES", ())

    def write(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return write


async def look(kernel_module: Path = Path("/nonexistent")) -> Discovery:
    return await discover(harnesses=["llamacpp"], max_prompt_tokens=16384, kernel_module=kernel_module)


async def test_a_host_without_tools_is_a_cpu_host(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = await look()
    assert found.memory is not None
    assert found.cpus is not None
    assert replace(found, memory=None, cpus=None) == Discovery(
        hostname=os.uname().nodename,
        os=os.uname().sysname,
        kernel=os.uname().release,
        devices=(),
        harnesses=("llamacpp",),
        max_prompt_tokens=16384,
    )
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_a_gpu_host_names_its_devices_and_versions(install: Install) -> None:
    install("nvidia-smi", 'case "$*" in *index,name,*) echo "0, NVIDIA H100, 81559, 9.0, 580.95.05";; esac')
    install("nvcc", 'echo "Cuda compilation tools, release 12.4, V12.4.131"')
    found = await look()
    assert found.devices == (Device(index=0, name="NVIDIA H100", vram_total_mb=81559, compute_capability="9.0"),)
    assert (found.driver_version, found.cuda_version) == ("580.95.05", "12.4")
    assert (found.cuda_unavailable_reason, found.max_prompt_tokens) == (None, 16384)


async def test_a_row_that_names_no_device_is_warned_about_and_the_others_stay(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("nvidia-smi", 'echo "?, broken"; echo "1, Card, 100, 8.0, 580.1"')
    assert [device.index for device in (await look()).devices] == [1]
    assert "broken" in caplog.text


async def test_a_half_updated_driver_is_an_error_and_a_reason(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(
        "nvidia-smi",
        'echo "Failed to initialize NVML: Driver/library version mismatch"; '
        'echo "NVML library version: 580.95" >&2; exit 18',
    )
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu\n")
    found = await look(tmp_path / "version")
    assert (found.devices, found.max_prompt_tokens) == ((), 16384)
    assert found.cuda_unavailable_reason is not None
    assert "library 580.95, kernel module 570.86.15" in found.cuda_unavailable_reason
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("script", ["echo broken >&2; exit 9", "echo no devices were found", "kill -SEGV $$"])
async def test_any_other_failure_is_a_warning_and_a_host_that_nobody_has_seen_yet(
    install: Install, caplog: pytest.LogCaptureFixture, script: str
) -> None:
    install("nvidia-smi", script)
    found = await look()
    assert (found.devices, found.driver_version, found.cuda_unavailable_reason) == ((), None, None)
    assert found.max_prompt_tokens is None, "a gateway would keep the empty list of devices for good"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await discover(harnesses=["llamacpp"], max_prompt_tokens=1, look=2)
    assert [record.levelname for record in caplog.records] == ["WARNING"], "each further failure is a DEBUG line"


@pytest.mark.both_loops
async def test_a_tool_that_hangs_is_killed_at_its_deadline(install: Install, tmp_path: Path) -> None:
    install("nvidia-smi", f"echo $$ > {tmp_path}/pid; exec /bin/sleep 600")
    output = await run_tool(("nvidia-smi",), deadline_s=1.0)
    assert output == ToolOutput("", problem="nvidia-smi did not end within 1 s and was killed")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_tool_that_cannot_be_started_is_a_problem_not_an_exception(install: Install, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("")
    output = await run_tool(("nvidia-smi",))
    assert output is not None
    assert output.problem is not None
    assert "could not be started" in output.problem


async def test_output_that_is_no_text_is_read_all_the_same(install: Install) -> None:
    install("nvidia-smi", r"printf '\377\376'")
    assert await run_tool(("nvidia-smi",)) == ToolOutput("\ufffd\ufffd")
