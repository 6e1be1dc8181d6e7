from pathlib import Path

import psutil
import pytest

from neuron_lib.engine.process_stats import bytes_read, bytes_resident


def test_the_memory_is_that_of_this_process() -> None:
    assert bytes_resident() == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_what_is_read_from_storage_and_not_what_is_found_in_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "io").write_text("rchar: 9000\nwchar: 5\nread_bytes: 4096\nwrite_bytes: 0\n")
    assert bytes_read(tmp_path / "io") == 4096


@pytest.mark.parametrize("text", [None, "", "rchar: 9000\n", "read_bytes: many\n", "nonsense\n"])
def test_where_the_kernel_does_not_count_nothing_was_read(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "io").write_text(text)
    assert bytes_read(tmp_path / "io") == 0
