"""What `neuron doctor` concludes from facts: which checks fail, with which status, and what to do about each."""

import errno
import os
from typing import Any

import pytest

from neuron_lib.config import Config, LlamaCppConfig
from neuron_lib.discovery.probe import Found
from neuron_lib.discovery.vendors import VENDORS
from neuron_lib.llama.build_facts import LlamaBuild
from neuron_lib.llamacpp.rpc_client import RpcMemory
from neuron_lib.types import Device, HostCpus, HostMemory
from neuron_service.cli import findings
from neuron_service.cli.findings import CacheFacts, Finding, PortFacts, Status

GPU = Device(index=0, name="NVIDIA H100", vram_total_mb=81559, compute_capability="9.0")
CPU_HOST = Found()
HOSTS = {vendor.name: Found(vendor=vendor, devices=(GPU,), driver_version="580.95") for vendor in VENDORS}
CPU_BUILD = LlamaBuild(binding_version="0.3.36", supports_gpu=False, gpus=())
GPU_BUILD = LlamaBuild(binding_version="0.3.36", supports_gpu=True, gpus=("NVIDIA H100, 80000 MiB free",))
BLIND_BUILD = LlamaBuild(binding_version="0.3.36", supports_gpu=True, gpus=())


def binding(build: LlamaBuild | str, found: Found, *, wants_gpu: bool = True) -> Finding:
    return findings.judge_binding(build, found, python="/venv/python", wants_gpu=wants_gpu, version="0.3.36")


def cache(**changes: Any) -> Finding:
    facts: dict[str, Any] = {"exists": True, "is_readable": True, "is_writable": True, "free_bytes": 10**12}
    return findings.judge_cache("huggingface", CacheFacts(directory="/cache", place="/cache", **(facts | changes)))


def port(error: int, *, is_neuron: bool = False) -> Finding:
    return findings.judge_port(
        PortFacts(host="127.0.0.1", port=80, error=error, is_neuron=is_neuron, problem="not neuron")
    )


def limits(**changes: Any) -> list[Finding]:
    facts: dict[str, Any] = {
        "descriptors": 65536,
        "memory": HostMemory(total_mb=64000, available_mb=32000),
        "cpus": HostCpus(online=16, usable=16),
    }
    return findings.judge_limits(**(facts | changes))


# --------------------------------------------------------------------------------------------------- the whole report


def finding(status: Status, exit_status: int = 0) -> Finding:
    return Finding(check="c", status=status, detail="d", exit_status=exit_status)


def test_the_exit_status_is_that_of_the_first_check_that_failed() -> None:
    ok, warning, skipped = finding(Status.OK), finding(Status.WARNING), finding(Status.SKIPPED)
    assert (findings.exit_status([ok, warning, skipped]), findings.worst([ok, warning, skipped])) == (0, "warning")
    failed = [warning, finding(Status.FAILED, 69), finding(Status.FAILED, 78)]
    assert (findings.exit_status(failed), findings.worst(failed)) == (69, "failed")
    assert (findings.exit_status([]), findings.worst([ok, skipped])) == (0, "ok")


FAILURES = {
    "a configuration that is refused": (findings.judge_configuration("neuron.toml", "bad"), os.EX_CONFIG),
    "a model that cannot load": (findings.judge_models(["no quant"])[0], os.EX_CONFIG),
    "packages that are missing": (findings.judge_packages(["uvicorn"], "/venv/python"), os.EX_UNAVAILABLE),
    "a half-updated driver": (
        findings.judge_driver(Found(cuda_unavailable_reason="reboot"), has_nvidia_card=True),
        os.EX_UNAVAILABLE,
    ),
    "a driver that fails": (
        findings.judge_driver(Found(vendor=VENDORS[0], problem="status 9"), has_nvidia_card=True),
        os.EX_UNAVAILABLE,
    ),
    "a build without GPUs on a host with one": (binding(CPU_BUILD, HOSTS["NVIDIA"]), os.EX_UNAVAILABLE),
    "a build that sees no GPU": (binding(BLIND_BUILD, HOSTS["NVIDIA"]), os.EX_UNAVAILABLE),
    "a build that does not load": (binding("signal 4", CPU_HOST), os.EX_UNAVAILABLE),
    "a cache that cannot be read": (cache(is_readable=False), os.EX_NOPERM),
    "a cache behind a closed door": (cache(exists=False, is_hidden=True), os.EX_NOPERM),
    "a cache that cannot be made": (cache(exists=False, is_writable=False), os.EX_CANTCREAT),
    "a port that another program has": (port(errno.EADDRINUSE), os.EX_OSERR),
    "a port that needs rights": (port(errno.EACCES), os.EX_NOPERM),
    "an address of another machine": (port(errno.EADDRNOTAVAIL), os.EX_OSERR),
    "a Unix socket in a directory that is not there": (
        findings.judge_port(PortFacts(host="unix:/run/x/neuron.sock", port=0, error=errno.ENOENT)),
        os.EX_OSERR,
    ),
    "a Unix socket in a directory of somebody else": (
        findings.judge_port(PortFacts(host="unix:/run/neuron.sock", port=0, error=errno.EACCES)),
        os.EX_NOPERM,
    ),
    "files of GPUs that are closed": (
        findings.judge_nodes(HOSTS["AMD"], ["/dev/kfd"], "neuron"),
        os.EX_NOPERM,
    ),
    "files that cannot be read": (findings.judge_files(["/etc/neuron/keys"], "neuron")[0], os.EX_NOPERM),
    "a clock that is behind": (findings.judge_clock(behind_s=1.0, is_synchronised=None), os.EX_OSERR),
}


@pytest.mark.parametrize(("judged", "expected"), FAILURES.values(), ids=FAILURES)
def test_what_keeps_the_service_from_working_fails_with_a_status_and_a_fix(judged: Finding, expected: int) -> None:
    assert (judged.status, judged.exit_status) == (Status.FAILED, expected)
    assert judged.fix


WARNINGS = {
    "a card without its tool": findings.judge_driver(CPU_HOST, has_nvidia_card=True),
    "a cache that cannot be written": cache(is_writable=False),
    "a disk that is nearly full": cache(free_bytes=10**9),
    "few files": limits(descriptors=1024)[0],
    "little memory": limits(memory=HostMemory(total_mb=64000, available_mb=500))[0],
    "a tight control group": limits(memory=HostMemory(total_mb=64000, available_mb=32000, limit_available_mb=500))[0],
    "half a CPU": limits(cpus=HostCpus(online=16, usable=16, limit=0.5))[0],
    "a clock that drifts": findings.judge_clock(behind_s=-1.0, is_synchronised=False),
}


@pytest.mark.parametrize("judged", WARNINGS.values(), ids=WARNINGS)
def test_what_makes_the_service_worse_is_a_warning_with_a_fix(judged: Finding) -> None:
    assert (judged.status, judged.exit_status) == (Status.WARNING, 0)
    assert judged.fix


FINE = {
    "a configuration": findings.judge_configuration("neuron.toml", None),
    "models": findings.judge_models([])[0],
    "packages": findings.judge_packages([], "/venv/python"),
    "a host without GPUs": findings.judge_driver(CPU_HOST, has_nvidia_card=False),
    "a host with GPUs": findings.judge_driver(HOSTS["NVIDIA"], has_nvidia_card=True),
    "a CPU build on a CPU host": binding(CPU_BUILD, CPU_HOST),
    "a CPU build where no layer goes to a GPU": binding(CPU_BUILD, HOSTS["NVIDIA"], wants_gpu=False),
    "a GPU build": binding(GPU_BUILD, HOSTS["NVIDIA"]),
    "a cache": cache(),
    "a cache that can be made": cache(exists=False),
    "a free port": port(0),
    "the port of a running neuron": port(errno.EADDRINUSE, is_neuron=True),
    "open files of GPUs": findings.judge_nodes(HOSTS["AMD"], [], "neuron"),
    "limits": limits(memory=HostMemory(total_mb=1, available_mb=5000, limit_mb=6000, limit_available_mb=4000))[0],
    "limits that are not known": limits(memory=None)[0],
    "a clock": findings.judge_clock(behind_s=0.0, is_synchronised=True),
}


@pytest.mark.parametrize("judged", FINE.values(), ids=FINE)
def test_what_is_fine_says_what_was_found_and_needs_no_fix(judged: Finding) -> None:
    assert (judged.status, judged.fix, judged.exit_status) == (Status.OK, None, 0)
    assert judged.detail


@pytest.mark.parametrize(
    ("vendor", "option"), [("NVIDIA", "-DGGML_CUDA=on"), ("AMD", "-DGGML_HIP=on"), ("Intel", "-DGGML_SYCL=on")]
)
def test_the_fix_of_a_build_without_gpus_is_a_command_for_the_vendor_of_the_gpu(vendor: str, option: str) -> None:
    fix = binding(CPU_BUILD, HOSTS[vendor]).fix
    assert fix is not None
    assert fix.startswith(f'CMAKE_ARGS="{option}" /venv/python -m pip install')
    assert "llama-cpp-python==0.3.36" in fix


def test_a_llama_cpp_that_lacks_a_library_of_the_system_is_not_installed_again() -> None:
    said = "RuntimeError: Failed to load '/x/libllama.so': libgomp.so.1: cannot open shared object file: No such file"
    assert binding(said, CPU_HOST).fix == "install the package of this system that has libgomp.so.1"


def test_a_cpu_host_needs_no_file_of_a_device() -> None:
    assert findings.judge_nodes(CPU_HOST, [], "neuron").status is Status.SKIPPED


@pytest.mark.parametrize(("gpu_layers", "expected"), [(-1, True), (0, False), (20, True)])
def test_a_configuration_that_keeps_all_layers_on_the_cpu_wants_no_gpu(gpu_layers: int, *, expected: bool) -> None:
    assert findings.wants_gpu(Config(harness={"llamacpp": LlamaCppConfig(gpu_layers=gpu_layers)})) is expected


# --------------------------------------------------------------------------------------------------------- RPC servers

RPC_BUILD = LlamaBuild(binding_version="0.3.36", supports_gpu=False, gpus=(), supports_rpc=True)
DEVICE = (RpcMemory(1 << 30, 2 << 30),)


def test_a_server_of_this_host_is_well_and_one_that_is_silent_is_a_warning() -> None:
    ok, silent = findings.judge_rpc(RPC_BUILD, {"127.0.0.1:50052": DEVICE, "localhost:50053": "it hangs"})
    assert (ok.status, ok.detail) == (Status.OK, "127.0.0.1:50052 has 1 devices: 1024 of 2048 MiB free")
    assert (silent.status, silent.detail) == (Status.WARNING, "it hangs")
    assert findings.judge_rpc(RPC_BUILD, {}) == []


def test_a_server_that_is_reached_over_a_network_stays_a_warning() -> None:
    answers = findings.judge_rpc(RPC_BUILD, {"10.0.0.1:50052": DEVICE, "127.0.0.1:50052": DEVICE, "big:1": DEVICE})
    *oks, exposed = answers
    assert [each.status for each in oks] == [Status.OK] * 3
    assert (exposed.status, exposed.exit_status) == (Status.WARNING, 0)
    assert "10.0.0.1:50052, big:1 is reached over a network" in exposed.detail
    assert "firewall" in (exposed.fix or "")


def test_servers_are_of_no_use_to_a_llama_cpp_without_rpc() -> None:
    (failed,) = findings.judge_rpc(CPU_BUILD, {"10.0.0.1:50052": DEVICE})
    assert (failed.status, failed.exit_status) == (Status.FAILED, os.EX_UNAVAILABLE)
    (missing,) = findings.judge_rpc("cannot be loaded", {"127.0.0.1:1": "silent"})
    assert missing.status is Status.WARNING  # why it cannot be loaded is another check's
