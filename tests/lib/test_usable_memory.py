from pathlib import Path

import pytest

from neuron_lib.usable_memory import free_bytes, parse_meminfo, usable_bytes

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
