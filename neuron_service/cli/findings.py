"""What `neuron doctor` concludes from the facts of a host. Pure: each function takes facts and returns a finding."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from neuron_lib.config import Config, LlamaCppConfig, unix_path
from neuron_lib.discovery.probe import Found
from neuron_lib.llama.build_facts import LlamaBuild
from neuron_lib.llamacpp.rpc_client import RpcMemory
from neuron_lib.llamacpp.rpc_servers import open_addresses
from neuron_lib.sizes import format_size
from neuron_lib.types import HostCpus, HostMemory
from neuron_service.http.listening import place_of

__all__ = (
    "CacheFacts",
    "Finding",
    "PortFacts",
    "Status",
    "exit_status",
    "judge_binding",
    "judge_cache",
    "judge_clock",
    "judge_configuration",
    "judge_driver",
    "judge_files",
    "judge_limits",
    "judge_models",
    "judge_nodes",
    "judge_packages",
    "judge_port",
    "judge_rpc",
    "wants_gpu",
    "worst",
)

_LITTLE_BYTES: Final = 5 * 10**9
"""Few models in common use are smaller."""
_FEW_DESCRIPTORS: Final = 4096
_LITTLE_MEMORY_MB: Final = 1024
_BUILD_OPTIONS: Final = {"NVIDIA": "-DGGML_CUDA=on", "AMD": "-DGGML_HIP=on", "Intel": "-DGGML_SYCL=on"}
_LACKING_LIBRARY: Final = re.compile(r"(lib\S+): cannot open shared object file")
"""How the loader of programs names a library of the system that is not installed."""
_GROUPS: Final = {"NVIDIA": "the group that owns it", "AMD": "the groups render and video", "Intel": "the group render"}


class Status(StrEnum):
    """How a check ended. A warning does not keep the service from working."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one check. `fix` says what to do. `exit_status` is that of sysexits.h if the check has failed."""

    check: str
    status: Status
    detail: str
    fix: str | None = None
    exit_status: int = 0


class CacheFacts(Struct, frozen=True, kw_only=True):
    """A directory for models. `place` is the directory, or the nearest one above it that can be seen. Sizes in bytes.

    `is_hidden` says that this user may not enter a directory on the way, so that it is not known what exists.
    """

    directory: str
    place: str
    exists: bool
    is_hidden: bool = False
    is_readable: bool
    is_writable: bool
    free_bytes: int


class PortFacts(Struct, frozen=True, kw_only=True):
    """Whether the address can be listened on. `error` is the number of the error, 0 for success.

    `is_neuron` says that a neuron answers there. `problem` says what else answers.
    """

    host: str
    port: int
    error: int = 0
    is_neuron: bool = False
    problem: str = ""


def worst(findings: Sequence[Finding]) -> Status:
    """`FAILED` if a check has failed, else `WARNING` if there is one, else `OK`."""
    statuses = {finding.status for finding in findings}
    return next((status for status in (Status.FAILED, Status.WARNING) if status in statuses), Status.OK)


def exit_status(findings: Sequence[Finding]) -> int:
    """That of the first check that has failed. 0 if none has."""
    return next((finding.exit_status for finding in findings if finding.status is Status.FAILED), 0)


def judge_configuration(source: str, problem: str | None) -> Finding:
    """The file and the variables. `problem` is the reason for which they are refused."""
    if problem is None:
        return _ok("configuration", f"{source} is valid")
    return _failed("configuration", problem, "correct that; docs/reference/config.md has all keys", os.EX_CONFIG)


def judge_models(faults: Sequence[str]) -> list[Finding]:
    """The models of the configuration that can never load."""
    if not faults:
        return [_ok("models", "no model of the configuration is known to be impossible")]
    return [_failed("models", fault, "correct that key; the other models load", os.EX_CONFIG) for fault in faults]


def judge_packages(missing: Sequence[str], python: str) -> Finding:
    """The Python packages of the service."""
    if not missing:
        return _ok("packages", "all Python packages of the service are installed")
    detail = f"missing: {', '.join(missing)}"
    return _failed("packages", detail, f"{python} -m pip install 'neuron-node[service]'", os.EX_UNAVAILABLE)


def judge_driver(found: Found, *, has_nvidia_card: bool) -> Finding:
    """What the vendors' tools say. `has_nvidia_card` is what the PCI bus says."""
    if found.cuda_unavailable_reason:
        fix = "reboot this host, so that the kernel loads the module of the new driver"
        return _failed("driver", found.cuda_unavailable_reason, fix, os.EX_UNAVAILABLE)
    if found.problem and found.vendor:
        fix = f"run `{found.vendor.tool}` and `dmesg` to see why; reinstall the driver if it is not loaded"
        return _failed("driver", f"no GPU is seen: {found.problem}", fix, os.EX_UNAVAILABLE)
    if found.devices and found.vendor:
        names = ", ".join(f"{gpu.index}: {gpu.name} ({gpu.vram_total_mb} MiB)" for gpu in found.devices)
        version = f", driver {found.driver_version}" if found.driver_version else ""
        return _ok("driver", f"{found.vendor.name}: {names}{version}")
    if has_nvidia_card:
        detail = "the PCI bus has a GPU of NVIDIA, and there is no nvidia-smi: models compute on the CPU"
        return _warning("driver", detail, "install NVIDIA's driver with its tools, or ignore this")
    return _ok("driver", "no vendor's tool names a GPU: models compute on the CPU")


def judge_binding(
    build: LlamaBuild | str, found: Found, *, python: str, wants_gpu: bool, version: str | None
) -> Finding:
    """Whether llama.cpp can use the GPUs of this host. A text instead of a build says why it cannot be loaded.

    `wants_gpu` is False if the configuration keeps all layers on the CPU. `version` is that of the installed package.
    """
    vendor = found.vendor.name if found.vendor and found.devices else None
    package = f"llama-cpp-python{f'=={version}' if version else ''}"
    options = f'CMAKE_ARGS="{_BUILD_OPTIONS[vendor]}" ' if vendor else ""
    install = f"{options}{python} -m pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python"
    install = f"{install} --no-deps {package}"
    if isinstance(build, str):
        lacking = _LACKING_LIBRARY.search(build)
        fix = f"install the package of this system that has {lacking[1]}" if lacking else install
        told = build.removeprefix("llama.cpp cannot be loaded: ")  # a process that could say so itself
        return _failed("binding", f"llama.cpp cannot be loaded: {told}", fix, os.EX_UNAVAILABLE)
    name = f"llama-cpp-python {build.binding_version}"
    if vendor is None or not wants_gpu:
        where = "this host has no GPU" if vendor is None else "the configuration has gpu_layers = 0"
        return _ok("binding", f"{name} loads; {where}")
    if not build.supports_gpu:
        detail = f"{name} was built without GPU support, and this host has a GPU of {vendor}: models compute on the CPU"
        return _failed("binding", detail, f"{install} (this needs the vendor's compiler)", os.EX_UNAVAILABLE)
    if not build.gpus:
        detail = f"{name} was built for GPUs and sees none of the {len(found.devices)} GPUs of this host"
        fix = "look at CUDA_VISIBLE_DEVICES and its like, at the permissions below, and at the vendor it was built for"
        return _failed("binding", detail, fix, os.EX_UNAVAILABLE)
    return _ok("binding", f"{name} sees {'; '.join(build.gpus)}")


def judge_rpc(build: LlamaBuild | str, servers: Mapping[str, Sequence[RpcMemory] | str]) -> list[Finding]:
    """The RPC servers of the configuration by their addresses: their devices, or why a server does not tell them.

    A server that serves a model answers nobody else, so no answer is a warning. So is each server that is reached over
    a network, as long as it is in the configuration: nothing but the network protects it.
    """
    if servers and isinstance(build, LlamaBuild) and not build.supports_rpc:
        detail = "the configuration has rpc_servers, and llama-cpp-python was built without RPC"
        fix = "install it again with CMAKE_ARGS=-DGGML_RPC=ON, as `make` does"
        return [_failed("rpc", detail, fix, os.EX_UNAVAILABLE)]
    found = []
    for address, said in servers.items():
        if isinstance(said, str):
            fix = "start the server there, or unload the model that uses it; a load waits for nobody"
            found.append(_warning("rpc", said, fix))
        else:
            free = ", ".join(f"{memory.free_bytes >> 20} of {memory.total_bytes >> 20} MiB free" for memory in said)
            found.append(_ok("rpc", f"{address} has {len(said)} devices: {free}"))
    if exposed := open_addresses(tuple(servers)):
        detail = f"RPC checks no caller and encrypts nothing, and {', '.join(exposed)} is reached over a network"
        fix = "let a firewall or a network of its own keep everybody but this host from the ports of the servers"
        found.append(_warning("rpc", detail, fix))
    return found


def judge_cache(source: str, facts: CacheFacts) -> Finding:
    """The directory for the models of a source, and the room on its disk."""
    place = f"{facts.directory} ({source})"
    if facts.is_hidden or (facts.exists and not facts.is_readable):
        return _failed(
            "cache", f"{place} cannot be read", f"give this user the right to read {facts.place}", os.EX_NOPERM
        )
    if not facts.is_writable and not facts.exists:
        detail = f"{place} is not there and cannot be made in {facts.place}"
        return _failed("cache", detail, "make it for this user, or set `hf_cache`", os.EX_CANTCREAT)
    if not facts.is_writable:
        detail = f"{place} cannot be written: only models that are in it can be loaded"
        return _warning(
            "cache", detail, f"give this user the right to write to {facts.place}, if models are to be fetched"
        )
    free = f"{format_size(facts.free_bytes)} free"
    if facts.free_bytes < _LITTLE_BYTES:
        return _warning("cache", f"{place}: only {free}", "delete models with `neuron rm`, or set `hf_cache`")
    return _ok("cache", f"{place}: {free}")


def judge_port(facts: PortFacts) -> Finding:
    """Whether the service can listen where the configuration says."""
    is_unix, address = unix_path(facts.host) is not None, place_of(facts.host, facts.port)
    if facts.is_neuron:
        return _ok("port", f"{address}: a neuron listens there")
    match facts.error:
        case 0:
            return _ok("port", f"{address} is free")
        case errno.EADDRINUSE:
            detail = f"{address} is taken: {facts.problem}"
            fix = f"find its owner with `ss -lnp`, or set `{'host' if is_unix else 'port'}`"
            return _failed("port", detail, fix, os.EX_OSERR)
        case errno.EACCES | errno.EPERM:
            fix = "give this user the right to write to the directory" if is_unix else "set `port` to 1024 or above"
            fix = f"{fix}, or let systemd pass the socket"
            return _failed("port", f"{address} needs rights that this user lacks", fix, os.EX_NOPERM)
        case _:
            detail = f"{address} cannot be listened on: {os.strerror(facts.error)}"
            fix = (
                "set `host` to a path in a directory that exists"
                if is_unix
                else "set `host` to an address of this machine"
            )
            return _failed("port", detail, fix, os.EX_OSERR)


def judge_nodes(found: Found, unusable: Sequence[str], user: str) -> Finding:
    """The files of the devices. `unusable` are those that this user cannot read and write."""
    if not found.devices or not found.vendor:
        return _skipped("permissions", "no GPU, so no file of a device is needed")
    if not unusable:
        return _ok("permissions", f"the user {user} may use the files of the GPUs")
    detail = f"the user {user} may not use {', '.join(unusable)}"
    fix = f"add {user} to {_GROUPS[found.vendor.name]}, and start the service again"
    return _failed("permissions", detail, fix, os.EX_NOPERM)


def judge_files(unreadable: Sequence[str], user: str) -> list[Finding]:
    """The files that the configuration names. `unreadable` are those that this user cannot read."""
    fix = "give this user the right to read it, and to enter the directories above it"
    return [_failed("permissions", f"the user {user} cannot read {path}", fix, os.EX_NOPERM) for path in unreadable]


def judge_limits(*, descriptors: int, memory: HostMemory | None, cpus: HostCpus) -> list[Finding]:
    """What the system allows the service."""
    findings = []
    if descriptors < _FEW_DESCRIPTORS:
        detail = f"at most {descriptors} open files, so few connections"
        findings.append(_warning("limits", detail, f"set LimitNOFILE (systemd) or `ulimit -n` to {_FEW_DESCRIPTORS}"))
    room = None if memory is None else memory.available_mb
    if memory is not None and memory.limit_available_mb is not None:
        room = memory.limit_available_mb if room is None else min(room, memory.limit_available_mb)
    if room is not None and room < _LITTLE_MEMORY_MB:
        findings.append(
            _warning("limits", f"only {room} MiB of memory are free", "end other programs or raise MemoryMax")
        )
    if cpus.limit is not None and cpus.limit < 1:
        findings.append(_warning("limits", f"the control group allows {cpus.limit} CPUs", "raise CPUQuota"))
    if findings:
        return findings
    limit = f" of {memory.limit_mb} MiB that the control group allows" if memory and memory.limit_mb else ""
    shown = "an unknown amount of" if room is None else f"{room} MiB of"
    usable = f"{cpus.usable} CPUs" + (f", {cpus.limit} of them on average" if cpus.limit else "")
    return [_ok("limits", f"{shown} memory free{limit}, {usable}, {descriptors} open files")]


def judge_clock(*, behind_s: float, is_synchronised: bool | None) -> Finding:
    """The wall clock. `behind_s` is how far it is behind the newest file of this installation, in seconds.

    `is_synchronised` is what the kernel says, None if that is not known.
    """
    fix = "set the clock, such as with `timedatectl set-ntp true`"
    if behind_s > 0:
        detail = f"the clock is at least {behind_s / 86400:.1f} days behind, so certificates of hubs are not valid yet"
        return _failed("clock", detail, fix, os.EX_OSERR)
    if is_synchronised is False:
        return _warning("clock", "the kernel says that the clock is not synchronised", fix)
    return _ok("clock", "the clock is synchronised" if is_synchronised else "the clock is not behind this installation")


def wants_gpu(config: Config) -> bool:
    """Whether the configuration lets models use GPUs."""
    table = config.harness.get("llamacpp")
    return not isinstance(table, LlamaCppConfig) or table.gpu_layers != 0


def _ok(check: str, detail: str) -> Finding:
    return Finding(check=check, status=Status.OK, detail=detail)


def _skipped(check: str, detail: str) -> Finding:
    return Finding(check=check, status=Status.SKIPPED, detail=detail)


def _warning(check: str, detail: str, fix: str) -> Finding:
    return Finding(check=check, status=Status.WARNING, detail=detail, fix=fix)


def _failed(check: str, detail: str, fix: str, exit_status: int) -> Finding:
    return Finding(check=check, status=Status.FAILED, detail=detail, fix=fix, exit_status=exit_status)
