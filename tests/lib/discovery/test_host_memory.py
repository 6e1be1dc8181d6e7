"""What a host says of its memory and CPUs, and that `/health` has it without reading a file."""

import os
from pathlib import Path

import anyio
import pytest

from neuron_lib.discovery import HostMonitor
from neuron_lib.discovery.host_memory import now_cpus, now_memory, read_cpus, read_memory
from neuron_lib.types import HostCpus, HostMemory

MEMINFO = "MemTotal:       16384000 kB\nMemFree:  100 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n"


def test_the_facts_have_nothing_that_changes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    facts, now = read_memory(tmp_path / "meminfo"), now_memory(tmp_path / "meminfo")
    assert facts is not None
    assert (facts.total_mb, facts.available_mb, facts.limit_available_mb) == (16000, None, None)
    assert now is not None
    assert (now.total_mb, now.available_mb, now.limit_mb) == (16000, 8000, facts.limit_mb)
    assert read_cpus().load_1m is None


def test_the_limits_of_the_control_groups_are_told_and_what_is_left_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    limits = {"limit_of_cgroups": 8 << 30, "allowed_by_cgroups": 3 << 30, "cpus_of_cgroups": 2.5}
    for name, limit in limits.items():
        monkeypatch.setattr(f"neuron_lib.discovery.host_memory.{name}", lambda limit=limit: limit)
    now, facts = now_memory(tmp_path / "meminfo"), read_memory(tmp_path / "meminfo")
    assert now == HostMemory(total_mb=16000, available_mb=8000, limit_mb=8192, limit_available_mb=3072)
    assert facts == HostMemory(total_mb=16000, limit_mb=8192)
    assert (now_cpus().limit, read_cpus().limit) == (2.5, 2.5)


@pytest.mark.parametrize("text", [None, "", "MemFree: 1 kB\n"])
def test_a_kernel_that_does_not_say_its_memory_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    assert now_memory(tmp_path / "meminfo") is None
    assert read_memory(tmp_path / "meminfo") is None


def test_this_host_has_memory_and_cpus() -> None:
    memory, cpus = now_memory(), now_cpus()
    assert memory is not None
    assert memory.available_mb is not None
    assert 0 < memory.available_mb <= memory.total_mb
    assert cpus.usable == len(os.sched_getaffinity(0))
    assert cpus.load_1m is not None


@pytest.mark.anyio
async def test_the_latest_reading_is_shown_and_the_first_one_is_taken_at_once() -> None:
    readings = [(HostMemory(total_mb=number, available_mb=number), HostCpus(online=1, usable=1)) for number in (1, 2)]
    is_done = anyio.Event()
    left = list(readings)

    def read() -> tuple[HostMemory, HostCpus]:
        if len(left) == 1:
            anyio.from_thread.run_sync(is_done.set)
        return left.pop(0) if len(left) > 1 else left[0]

    monitor = HostMonitor(interval_s=0, read=read)
    assert monitor.reading() == (None, None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        await is_done.wait()
        tasks.cancel_scope.cancel()
    assert monitor.reading() in readings


@pytest.mark.anyio
async def test_a_reading_that_fails_is_told_once_and_the_next_one_counts(caplog: pytest.LogCaptureFixture) -> None:
    reading = HostMemory(total_mb=1, available_mb=1), HostCpus(online=1, usable=1)
    is_done, looks = anyio.Event(), 0

    def read() -> tuple[HostMemory, HostCpus]:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise ValueError("no such line")
        if looks == 4:
            anyio.from_thread.run_sync(is_done.set)
        return reading

    monitor = HostMonitor(interval_s=0, read=read)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(monitor.run)
        await is_done.wait()
        tasks.cancel_scope.cancel()
    assert monitor.reading() == reading
    assert [record.message for record in caplog.records] == ["the memory and the CPUs of this host cannot be read"]


def test_a_host_that_does_not_say_its_load_says_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", refuse)
    assert now_cpus() == read_cpus()
