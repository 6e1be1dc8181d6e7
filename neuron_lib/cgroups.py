"""How much memory and CPU time the control groups allow this process, such as a container's limit or systemd's
MemoryMax.

Reads a few small files of both versions of control groups. Knows nothing of models. The CPUs that a group may use
(cpuset) are not read here: the affinity of each process already follows from them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ("allowed_by_cgroups", "cpus_of_cgroups", "limit_of_cgroups")

_OWN: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")
_NO_MEMORY_LIMIT: Final = 1 << 62
"""Bytes. Version 1 writes a number above this if there is no limit."""


def limit_of_cgroups(own: Path = _OWN, mount: Path = _MOUNT) -> int | None:
    """The memory in bytes that all processes in the groups of this process may take together. None without a limit."""
    limits = map(_limit_of, _groups(own, mount, "memory"))
    return min((limit for limit in limits if limit is not None), default=None)


def allowed_by_cgroups(own: Path = _OWN, mount: Path = _MOUNT) -> int | None:
    """The memory in bytes that is left in the groups of this process. None without a limit.

    Cached files do not count as taken, because the kernel drops them when memory is needed.
    """
    rooms = map(_room_in, _groups(own, mount, "memory"))
    return min((room for room in rooms if room is not None), default=None)


def cpus_of_cgroups(own: Path = _OWN, mount: Path = _MOUNT) -> float | None:
    """How many CPUs all processes in the groups of this process may use together on average. None without a limit."""
    quotas = map(_cpus_of, _groups(own, mount, "cpu"))
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(own: Path, mount: Path, controller: str) -> Iterator[Path]:
    """The directories that limit `controller`: of the group of this process and of all groups around it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:  # version 2
            yield from _levels(mount, name)
        elif controller in controllers.split(","):
            # The name of the directory is all controllers joined, perhaps in another order than here (RHEL 7). A link
            # with the name of each controller leads to it.
            yield from _levels(mount / controllers, name)
            yield from _levels(mount / controller, name)


def _levels(top: Path, name: str) -> Iterator[Path]:
    group = top / name.lstrip("/")
    yield from (level for level in (group, *group.parents) if level.is_relative_to(top))


def _limit_of(group: Path) -> int | None:
    limit = _number(group / "memory.max")
    if limit is not None:
        return limit
    limit = _number(group / "memory.limit_in_bytes")
    return None if limit is None or limit >= _NO_MEMORY_LIMIT else limit


def _room_in(group: Path) -> int | None:
    limit = _limit_of(group)
    if limit is None:
        return None
    used, prefix = _number(group / "memory.current"), ""
    if used is None:  # version 1, whose plain names do not count the groups inside
        used, prefix = _number(group / "memory.usage_in_bytes"), "total_"
    if used is None:
        return None
    try:
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, limit - used + int(stat[f"{prefix}active_file"]) + int(stat[f"{prefix}inactive_file"]))
    except (OSError, ValueError, KeyError):  # there is no such file, or it has other keys
        return None


def _cpus_of(group: Path) -> float | None:
    try:
        quota, period = map(int, (group / "cpu.max").read_text(encoding="ascii").split())
    except (OSError, ValueError):  # "max", or version 1
        quota, period = _number(group / "cpu.cfs_quota_us") or 0, _number(group / "cpu.cfs_period_us") or 0
    return quota / period if quota > 0 and period > 0 else None  # -1 is no limit


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None
