"""The processes of one program as the kernel lists them: what they hold and have computed, and on which ports they
listen. Blocking, for milliseconds. Reads `/proc`, and changes nothing.
"""

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct

__all__ = ("Listener", "Usage", "listeners_on", "look_at_family")

_PROC: Final = Path("/proc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_LISTENS: Final = "0A"
_ENDED: Final = frozenset({"Z", "X"})
_LOOPBACK: Final = frozenset({"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"})
"""127.0.0.1, ::1 and 127.0.0.1 as an address of IPv6, as the kernel writes them on a little-endian machine."""


class Usage(Struct, frozen=True, kw_only=True):
    """What the processes with these `pids` hold together: memory in bytes, of which shared pages count for each of
    them, seconds of processor time, and bytes read from storage. Those that have ended do not count.
    """

    pids: tuple[int, ...] = ()
    rss_bytes: int = 0
    cpu_s: float = 0.0
    read_bytes: int = 0


class Listener(Struct, frozen=True, kw_only=True):
    """Who listens on a port: whether one of the program's processes does, and whether other machines reach it."""

    is_own: bool
    is_loopback: bool


class _Stat(NamedTuple):
    parent: int
    session: int
    cpu_s: float
    rss_bytes: int


def look_at_family(pid: int, *, proc: Path = _PROC) -> Usage:
    """What a process, all processes of its session, and all that these have started hold together."""
    stats = {number: stat for number in _numbers(proc) if (stat := _stat(proc / str(number))) is not None}
    family = {number for number, stat in stats.items() if pid in {number, stat.session}}
    size = 0
    while size < len(family):  # those that have a session of their own are found by their parents
        size = len(family)
        family |= {number for number, stat in stats.items() if stat.parent in family}
    return Usage(
        pids=tuple(sorted(family)),
        rss_bytes=sum(stats[number].rss_bytes for number in family),
        cpu_s=sum(stats[number].cpu_s for number in family),
        read_bytes=sum(_read_bytes(proc / str(number)) for number in family),
    )


def listeners_on(port: int, pids: Collection[int], *, proc: Path = _PROC) -> tuple[Listener, ...]:
    """Everybody who listens on a TCP port. `pids` are the program's processes."""
    found: dict[str, bool] = {}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            found |= _listening((proc / "net" / table).read_text("ascii"), port)
    if not found:
        return ()
    own = _sockets(pids, proc)
    return tuple(Listener(is_own=inode in own, is_loopback=loopback) for inode, loopback in found.items())


def _listening(table: str, port: int) -> Mapping[str, bool]:
    """The sockets that listen on a port, by their numbers, and whether their address is that of the loopback."""
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENS:
            address, _, number = fields[1].rpartition(":")
            if int(number, 16) == port:
                found[fields[9]] = address in _LOOPBACK
    return found


def _sockets(pids: Collection[int], proc: Path) -> set[str]:
    found = set()
    for pid in pids:
        with suppress(OSError):
            for link in (proc / str(pid) / "fd").iterdir():
                with suppress(OSError):
                    target = str(link.readlink())
                    if target.startswith("socket:["):
                        found.add(target.removeprefix("socket:[").removesuffix("]"))
    return found


def _numbers(proc: Path) -> list[int]:
    return [int(folder.name) for folder in proc.iterdir() if folder.name.isdecimal()]


def _stat(folder: Path) -> _Stat | None:
    """None for a process that has ended, also for one whose end nobody has taken note of yet."""
    try:
        # The name of the program stands in parentheses, and may have any character.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] in _ENDED:
            return None
        return _Stat(
            parent=int(fields[1]),
            session=int(fields[3]),
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
            rss_bytes=int(fields[21]) * _PAGE,
        )
    except (OSError, ValueError, IndexError):
        return None


def _read_bytes(folder: Path) -> int:
    with suppress(OSError, ValueError):
        for line in (folder / "io").read_text("ascii").splitlines():
            if line.startswith("read_bytes:"):
                return int(line.partition(":")[2])
    return 0
