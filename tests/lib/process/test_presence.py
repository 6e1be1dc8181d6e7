"""A program that is not on this host is named before a model needs it."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from neuron_lib.errors import LoadFailed
from neuron_lib.process import presence
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.process.presence import require_program


def entry(*command: str, **keys: Any) -> ProcessEntry:
    if not command:
        return ProcessEntry(name="x", kind="process", **keys)
    return ProcessEntry(name="x", kind="process", command=(*command, "{port}"), **keys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a program `serve`, and a file that is none."""
    (tmp_path / "serve").touch(mode=0o755)
    (tmp_path / "notes").touch(mode=0o644)
    return tmp_path


def test_a_program_is_found_where_it_will_be_looked_for(folder: Path) -> None:
    require_program(entry("serve"), {"PATH": str(folder)})
    require_program(entry("serve", env={"PATH": str(folder)}), {"PATH": "/nowhere"})
    require_program(entry(str(folder / "serve")), {})
    require_program(entry("./serve", directory=folder), {})


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("serve", "there is no program serve in the PATH '/nowhere': install it, or say where it is in `command`"),
        ("{here}/serve2", "there is no program {here}/serve2: install it"),
        ("{here}/notes", "there is no program {here}/notes"),
        ("{here}", "there is no program {here}:"),
    ],
)
def test_a_program_that_is_missing_is_named(command: str, expected: str, folder: Path) -> None:
    with pytest.raises(LoadFailed) as raised:
        require_program(entry(command.replace("{here}", str(folder))), {"PATH": "/nowhere"})
    assert expected.replace("{here}", str(folder)) in str(raised.value)


def test_a_program_that_is_another_one_for_each_model_is_not_looked_for() -> None:
    require_program(entry("{path}"), {})


def test_a_preset_in_this_services_python_names_the_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence.importlib.util, "find_spec", lambda name: None if name == "sglang" else object())  # type: ignore[attr-defined] # it imports it
    with pytest.raises(LoadFailed, match=r"needs the Python packages of sglang beside this service: .* sglang\[all\]"):
        require_program(entry(preset="sglang"), os.environ)
    require_program(entry(preset="llama-cpp-python"), os.environ)
    require_program(entry(sys.executable, preset="sglang"), os.environ)  # the operator knows better
