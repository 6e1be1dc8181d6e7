"""Hosts on this machine: network namespaces, each joined to ours by a cable that can be pulled. Needs root.

Addresses are those that are reserved for tests of networks (RFC 2544), so nothing outside this machine has them.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

__all__ = ("Host", "host")


@dataclass(frozen=True)
class Host:
    """One of them. `address` is where we reach the host, and `prefix` are the words that run a command there."""

    name: str
    address: str
    cable: str

    @property
    def prefix(self) -> Sequence[str]:
        return ("ip", "netns", "exec", self.name)

    def pull(self) -> None:
        """Pull the cable. What is sent is lost, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self.cable, "up")


@contextmanager
def host(number: int) -> Iterator[Host]:
    """The host of that number, 0 to 63. Skips the test where this process may not make one."""
    name = f"neuron-{os.getpid()}-{number}"
    ours, theirs = f"nrn{os.getpid() % 100000}{number}a", f"nrn{os.getpid() % 100000}{number}b"
    subnet = f"198.18.{os.getpid() % 256}"
    if shutil.which("ip") is None:
        pytest.skip("`ip` is missing, which is in the package iproute2")
    made = _ip("netns", "add", name, check=False)
    if made.returncode != 0:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        joined = _ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name, check=False)
        if joined.returncode != 0:
            pytest.skip(f"no network interface can be made here: {joined.stderr.strip()}")
        _ip("address", "add", f"{subnet}.{4 * number + 1}/30", "dev", ours)
        _ip("-n", name, "address", "add", f"{subnet}.{4 * number + 2}/30", "dev", theirs)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", theirs, "up")
        _ip("link", "set", ours, "up")
        yield Host(name, f"{subnet}.{4 * number + 2}", ours)
    finally:
        _ip("netns", "delete", name)  # which deletes both ends of the cable


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = shutil.which("ip")
    assert program is not None
    return subprocess.run([program, *words], check=check, capture_output=True, text=True, timeout=30)
