"""Which process of this machine listens at an address, from the tables of the kernel under /proc.

The functions that read texts are pure. `find_listeners` looks at this machine.
"""

import contextlib
import ipaddress
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ("Listener", "find_listeners", "is_neuron", "neuron_unit", "tcp_inodes", "unix_inodes")

_LISTENS: Final = "0A"
_SOCKET: Final = re.compile(r"socket:\[([0-9]+)\]")
_INIT: Final = 1
_UNIT: Final = re.compile(r"[^/]*neuron[^/]*\.service")


class Listener(NamedTuple):
    """A process that has the listening socket open. `command` are its arguments, `unit` is its unit of systemd."""

    pid: int
    command: tuple[str, ...]
    unit: str | None = None
    is_user_unit: bool = False


def find_listeners(host: str, port: int, *, proc: Path = Path("/proc")) -> list[Listener]:
    """The processes that listen at an address of this machine. `host` is the path of a Unix socket if `port` is 0.

    Processes of other users are left out, unless root asks. So is the first process of the system, which may hold the
    socket for a service.
    """
    if port == 0:
        inodes = unix_inodes((proc / "net/unix").read_text(), host)
    else:
        inodes = tcp_inodes((proc / "net/tcp").read_text(), host, port)
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            inodes |= tcp_inodes((proc / "net/tcp6").read_text(), host, port)
    pids = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    return [_about(proc, pid) for pid in pids if pid != _INIT and inodes.intersection(_open_sockets(proc, pid))]


def is_neuron(command: tuple[str, ...]) -> bool:
    """Whether arguments are those of the program neuron: its command, or `python -m neuron_service`."""
    program = [word.rpartition("/")[2] for word in command[:2]]
    return "neuron" in program or ("-m", "neuron_service") in itertools.pairwise(command)


def neuron_unit(cgroup: str) -> tuple[str | None, bool]:
    """The unit of systemd that a process belongs to, and whether it is a unit of a user. None for any other unit.

    `cgroup` is the text of /proc/PID/cgroup.
    """
    for line in cgroup.splitlines():
        path = line.rpartition(":")[2]
        name = path.rpartition("/")[2]
        if _UNIT.fullmatch(name):
            return name, "/user@" in path
    return None, False


def tcp_inodes(table: str, host: str, port: int) -> set[str]:
    """The inodes of the sockets that listen at a port for `host`, from the text of /proc/net/tcp or tcp6.

    A socket that listens at all addresses listens for every host. A name instead of an address counts as this machine.
    """
    wanted = {_address(host), *(_address(each) for each in ("0.0.0.0", "::"))}  # noqa: S104 - compared, not bound
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        address, _, port_text = fields[1].rpartition(":")
        if fields[3] == _LISTENS and int(port_text, 16) == port and _from_kernel(address) in wanted:
            found.add(fields[9])
    return found


def unix_inodes(table: str, path: str) -> set[str]:
    """The inodes of the sockets at a path, from the text of /proc/net/unix."""
    lines = (line.split(maxsplit=7) for line in table.splitlines()[1:])
    return {fields[6] for fields in lines if len(fields) == 8 and fields[7] == path}


def _address(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1"
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _from_kernel(text: str) -> str:
    """The address that the kernel writes as words of 32 bits, each in the order of this machine's bytes."""
    words = [text[index : index + 8] for index in range(0, len(text), 8)]
    packed = b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)
    return _address(str(ipaddress.ip_address(packed)))


def _open_sockets(proc: Path, pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        for entry in (proc / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if found := _SOCKET.fullmatch(str(entry.readlink())):
                    yield found[1]


def _about(proc: Path, pid: int) -> Listener:
    command, cgroup = "", ""
    with contextlib.suppress(OSError):
        command = (proc / str(pid) / "cmdline").read_text(errors="replace")
        cgroup = (proc / str(pid) / "cgroup").read_text(errors="replace")
    unit, is_user_unit = neuron_unit(cgroup)
    return Listener(pid, tuple(command.rstrip("\0").split("\0")), unit, is_user_unit)
