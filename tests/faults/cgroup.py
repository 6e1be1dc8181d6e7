"""A memory cgroup of our own, of either version; whoever may not make one skips the test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ("MemoryGroup", "memory_group")

UNIFIED = Path("/sys/fs/cgroup")
LEGACY = UNIFIED / "memory"


@dataclass(slots=True, frozen=True)
class MemoryGroup:
    """Processes that share a limit."""

    folder: Path
    limit_file: str

    def add(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def limit(self, limit_bytes: int) -> None:
        (self.folder / self.limit_file).write_text(str(limit_bytes))

    def taken(self) -> int:
        """The bytes that the processes hold: their own memory and the files that they have mapped.

        Files that are only cached do not count, because the kernel drops them when memory is needed.
        """
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        names = ("anon", "file_mapped") if "anon" in stat else ("total_rss", "total_mapped_file")
        return sum(int(stat[name]) for name in names)


@contextmanager
def memory_group(name: str) -> Iterator[MemoryGroup]:
    """A group without processes, without a limit and without swap; gone at the end, and its processes moved out."""
    is_legacy = (LEGACY / "cgroup.procs").exists()
    home = LEGACY if is_legacy else UNIFIED
    folder = home / f"{name}-{os.getpid()}"
    limit_file = "memory.limit_in_bytes" if is_legacy else "memory.max"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        if not (folder / limit_file).exists():
            pytest.skip("the memory controller is not for us here")
        no_swap, value = ("memory.swappiness", "0") if is_legacy else ("memory.swap.max", "0")
        if (folder / no_swap).exists():
            (folder / no_swap).write_text(value)
        yield MemoryGroup(folder, limit_file)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(pid)
        folder.rmdir()
