"""What `neuron doctor` asks of this host. Blocking. Each question has a time limit and changes nothing."""

import ctypes
import errno
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec

from neuron_lib.config import Config, LlamaCppConfig, unix_path
from neuron_lib.discovery.probe import Found
from neuron_lib.llama.build_facts import LlamaBuild
from neuron_lib.llamacpp.engine_environment import engine_environment
from neuron_lib.llamacpp.rpc_client import NoRpcAnswer, RpcMemory, ask_rpc_server
from neuron_service.http.listening import bind, is_taken

__all__ = (
    "ask_build",
    "ask_rpc_servers",
    "clock_is_behind_s",
    "clock_is_synchronised",
    "has_nvidia_card",
    "installed_files",
    "listen_error",
    "nearest_that_exists",
    "unreadable",
    "unusable_nodes",
    "user_name",
)

_BUILD_COMMAND: Final = (sys.executable, "-P", "-m", "neuron_lib.llama.build")
_BUILD_LIMIT_S: Final = 120
"""A build for GPUs may compile for a new GPU when it is loaded for the first time."""
_LONGEST_REASON: Final = 300
_PCI: Final = Path("/sys/bus/pci/devices")
_NVIDIA_PCI: Final = "0x10de"
_DISPLAY_CLASS: Final = "0x03"
_TIME_ERROR: Final = 5
"""What adjtimex(2) returns for a clock that is not synchronised."""
_TIMEX_BYTES: Final = 512
"""More than `struct timex` has on any architecture. All zeros is the question that changes nothing."""


def ask_build(environ: Mapping[str, str], command: Sequence[str] = _BUILD_COMMAND) -> LlamaBuild | str:
    """What llama.cpp was built for, by a process of its own. A text says why it cannot be loaded."""
    try:
        child = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, check=False, env=engine_environment(environ), timeout=_BUILD_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"loading took longer than {_BUILD_LIMIT_S} s"
    except OSError as error:
        return f"a process cannot be started: {error.strerror or error}"
    if child.returncode < 0:
        return f"loading ended the process with signal {-child.returncode}; the CPU may lack instructions of the build"
    try:
        return msgspec.json.decode(child.stdout.splitlines()[-1], type=LlamaBuild)
    except (IndexError, msgspec.MsgspecError):
        last = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return last[:_LONGEST_REASON] or f"the process ended with status {child.returncode}"


async def ask_rpc_servers(config: Config) -> dict[str, tuple[RpcMemory, ...] | str]:
    """The devices of each RPC server of the configuration. A text says why a server does not tell them."""
    table = config.harness.get("llamacpp")
    addresses = table.rpc_servers if isinstance(table, LlamaCppConfig) else ()
    answers: dict[str, tuple[RpcMemory, ...] | str] = dict.fromkeys(addresses, "")

    async def ask(address: str) -> None:
        try:
            answers[address] = await ask_rpc_server(address)
        except NoRpcAnswer as error:
            answers[address] = str(error)

    async with anyio.create_task_group() as tasks:
        for address in addresses:
            tasks.start_soon(ask, address)
    return answers


def has_nvidia_card(devices: Path = _PCI) -> bool:
    """Whether the PCI bus has a display device of NVIDIA."""
    return any(
        _read(device / "vendor") == _NVIDIA_PCI and _read(device / "class").startswith(_DISPLAY_CLASS)
        for device in devices.glob("*")
    )


def listen_error(host: str, port: int) -> int:
    """Listen on an address for a moment. Returns the number of the error, 0 for success.

    Nobody listens on a Unix socket (`unix:/path`) here, because that would leave a file. It is judged by the rights.
    """
    if (path := unix_path(host)) is not None:
        return _unix_error(path)
    try:
        bind(host, port).close()
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return 0


def _unix_error(path: Path) -> int:
    try:
        return errno.EADDRINUSE if is_taken(path) else 0
    except FileNotFoundError:
        return 0 if os.access(path.parent, os.W_OK | os.X_OK) else _why_not(path.parent)
    except OSError as error:
        return error.errno or errno.EACCES


def _why_not(directory: Path) -> int:
    return errno.EACCES if directory.exists() else errno.ENOENT


def nearest_that_exists(directory: Path) -> tuple[Path, bool]:
    """The directory, or the nearest one above it that this user sees, and whether some place on the way is hidden."""
    is_hidden = False
    for place in (directory, *directory.parents):
        try:
            if place.exists():
                return place, is_hidden
        except OSError:  # a directory above it may not be entered
            is_hidden = True
    return Path("/"), is_hidden


def user_name() -> str:
    """The name of the user of this process, or the number where it has no name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def unreadable(paths: Sequence[Path]) -> list[str]:
    """Those of the paths that exist, or may exist, and that this user cannot read."""
    return [str(path) for path in paths if not os.access(path, os.R_OK) and not _is_surely_missing(path)]


def unusable_nodes(found: Found, root: Path = Path("/dev")) -> list[str]:
    """The files of the devices that this user cannot both read and write."""
    return [str(node) for node in _nodes(found, root) if not os.access(node, os.R_OK | os.W_OK)]


def clock_is_behind_s(now_s: float, files: Sequence[Path]) -> float:
    """How far a clock is behind the newest of `files` in seconds. Negative for a clock that is not."""
    times = []
    for file in files:
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times, default=now_s) - now_s


def clock_is_synchronised() -> bool | None:
    """What the kernel says. None where it does not say that."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def installed_files() -> list[Path]:
    """Files of this installation, whose times are not after the time of the installation."""
    return list(Path(__file__).parent.glob("*.py"))


def _nodes(found: Found, root: Path) -> Iterator[Path]:
    match found.vendor.name if found.vendor and found.devices else None:
        case "NVIDIA":
            yield from sorted(root.glob("nvidia[0-9]*"))
            yield from (node for node in (root / "nvidiactl", root / "nvidia-uvm") if node.exists())
        case "AMD":
            yield root / "kfd"
            yield from sorted((root / "dri").glob("renderD*"))
        case "Intel":
            yield from sorted((root / "dri").glob("renderD*"))


def _is_surely_missing(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:  # a directory above it may not be entered
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace").strip()
    except OSError:
        return ""
