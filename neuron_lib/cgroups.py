"""How much memory the control groups (version 2) of this process leave it: a container's limit, systemd's MemoryMax.

Reads a few small files. Knows nothing of models.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ("allowed_by_cgroups", "limit_of_cgroups")

_OWN: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


def limit_of_cgroups(own: Path = _OWN, mount: Path = _MOUNT) -> int | None:
    """Bytes that this process and those beside it in its groups may take in all. None without a limit."""
    return min((limit for limit in map(_limit_of, _groups(own, mount)) if limit is not None), default=None)


def allowed_by_cgroups(own: Path = _OWN, mount: Path = _MOUNT) -> int | None:
    """Bytes that this process may still take; cached files give way, so they do not count. None without a limit."""
    return min((room for room in map(_room_in, _groups(own, mount)) if room is not None), default=None)


def _groups(own: Path, mount: Path) -> Iterator[Path]:
    """The group of this process and those around it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    group = mount.joinpath(*names)
    yield from (level for level in (group, *group.parents) if level.is_relative_to(mount))


def _limit_of(group: Path) -> int | None:
    try:
        return int((group / "memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max", or no such file
        return None


def _room_in(group: Path) -> int | None:
    limit = _limit_of(group)
    if limit is None:
        return None
    try:
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0, limit - used + int(stat["active_file"]) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no such file, or another version's words
        return None
