"""What a process holds, as the operating system counts it, and whether that grows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ("Footprint", "anonymous_bytes", "footprint", "slope", "zombies")


@dataclass(slots=True, frozen=True)
class Footprint:
    """Descriptors without those of connections that are in use, threads, and children of any age."""

    fds: int
    threads: int
    children: int

    def exceeds(self, other: "Footprint") -> bool:
        return self.fds > other.fds or self.threads > other.threads or self.children > other.children


def footprint(pid: int) -> Footprint:
    """What the process holds now. A connection that its peer has left behind counts, one in use does not."""
    process = psutil.Process(pid)
    fds, fds_before = process.num_fds(), -1
    in_use = 0
    while fds != fds_before:  # a connection that is closed between the two counts would be subtracted without being in
        fds_before = fds
        in_use = sum(connection.status == psutil.CONN_ESTABLISHED for connection in process.net_connections("tcp"))
        fds = process.num_fds()
    return Footprint(
        fds=fds - in_use,
        threads=process.num_threads(),
        children=len(process.children(recursive=True)),
    )


def zombies(pid: int) -> list[int]:
    """Children that ended and were never waited for."""
    children = psutil.Process(pid).children(recursive=True)
    return [child.pid for child in children if child.status() == psutil.STATUS_ZOMBIE]


def anonymous_bytes(pid: int) -> int:
    """Memory that belongs to the process alone and has no file behind it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "Anonymous":
            return int(rest.split()[0]) << 10
    raise AssertionError(f"the kernel does not say how much memory process {pid} has")


def slope(values: Sequence[float]) -> float:
    """Rise for each step of the line that fits the values best."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((number - middle) ** 2 for number in range(len(values)))
    return sum((number - middle) * (value - mean) for number, value in enumerate(values)) / spread
