import subprocess
import sys
from pathlib import Path

import pytest

from neuron_lib.usable_memory import bytes_of_children, free_bytes, parse_meminfo, usable_bytes

MEMINFO = "MemTotal:       16384000 kB\nMemFree:  100 kB\nMemAvailable:    8192000 kB\nHugePages_Total:       0\n"


def test_sizes_are_in_bytes_and_other_lines_are_left_out() -> None:
    sizes = parse_meminfo(MEMINFO + "Broken: x kB\n\nDirty: 2048 kB\n")
    assert sizes == {"MemTotal": 16000 << 20, "MemFree": 102400, "MemAvailable": 8000 << 20, "Dirty": 2 << 20}


@pytest.mark.parametrize(("allowed", "expected"), [(None, 8000 << 20), (5, 5), (1 << 62, 8000 << 20)])
def test_no_more_is_free_than_the_control_groups_allow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: int | None, expected: int
) -> None:
    monkeypatch.setattr("neuron_lib.usable_memory.allowed_by_cgroups", lambda: allowed)
    (tmp_path / "meminfo").write_text(MEMINFO)
    assert free_bytes(tmp_path / "meminfo") == expected


@pytest.mark.parametrize("text", [None, "", "MemFree: 1 kB\n"])
def test_a_kernel_that_does_not_say_what_is_free_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    assert free_bytes(tmp_path / "meminfo") is None


def test_a_host_has_more_memory_than_it_has_free() -> None:
    assert 0 < (free_bytes() or 0) < usable_bytes()


def test_the_memory_of_child_processes_is_what_they_have_beside_mapped_files(tmp_path: Path) -> None:
    for task, children in (("7", "11 12 "), ("8", "13")):
        (tmp_path / "self/task" / task).mkdir(parents=True)
        (tmp_path / "self/task" / task / "children").write_text(children)
    for child, sizes in (("11", (5, 900, 1)), ("12", (20, 900, 0))):  # 13 has ended
        (tmp_path / child).mkdir()
        names = ("RssAnon", "RssFile", "RssShmem")
        lines = (f"{name}:\t{size} kB\n" for name, size in zip(names, sizes, strict=True))
        (tmp_path / child / "status").write_text("Name:\tpython\n" + "".join(lines))
    assert bytes_of_children(tmp_path) == 26 << 10


def test_the_memory_of_child_processes_is_not_known_where_the_kernel_does_not_list_them(tmp_path: Path) -> None:
    (tmp_path / "self/task/7").mkdir(parents=True)
    assert bytes_of_children(tmp_path) is None


@pytest.mark.process
def test_what_a_child_process_takes_is_seen() -> None:
    program = "import sys; taken = bytearray(b'1') * (64 << 20); print('taken', flush=True); sys.stdin.read()"
    before = bytes_of_children()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        taken = bytes_of_children()
        child.stdin.close()
    if before is None or taken is None:
        pytest.skip("this kernel does not list child processes")
    assert taken - before > 64 << 20
