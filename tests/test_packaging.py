import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import neuron_lib
from neuron_service.cli.service_packages import SERVICE_PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
CLIENT_LOCKS = sorted((ROOT / "requirements" / "clients").glob("*.txt"))
NPM_LOCKS = sorted((ROOT / "requirements" / "clients").glob("*/package-lock.json"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

# (lock, the groups of pyproject.toml it must satisfy; "" is what everybody gets)
LOCKED_GROUPS = [("runtime", ["", "service"]), ("dev", ["", "service", "otel", "test", "lint", "types"])]


def locked(path: Path) -> Iterator[tuple[Requirement, list[str]]]:
    """Every pinned requirement of a lock with its hashes."""
    for entry in path.read_text().replace("\\\n", " ").splitlines():
        if entry and not entry.lstrip().startswith("#"):
            requirement, *hashes = entry.split("--hash=")
            yield Requirement(requirement), hashes


def pins(path: Path) -> dict[str, str]:
    """The versions that a lock installs here."""
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement, _ in locked(path)
        if requirement.marker is None or requirement.marker.evaluate()
    }


def test_the_installed_version_is_the_one_that_the_library_says() -> None:
    assert metadata.version(PROJECT["name"]) == neuron_lib.__version__


def test_installing_gives_the_neuron_command() -> None:
    (command,) = metadata.entry_points(group="console_scripts", name="neuron")
    assert command.value == "neuron_service.cli:main"


WITHOUT_THE_EXTRA = f"import sys; sys.modules |= dict.fromkeys({SERVICE_PACKAGES!r})"
"""Python that finds none of the packages that only the service needs."""


def test_the_extra_has_the_packages_that_the_command_asks_for_and_the_library_has_none_of_them() -> None:
    extra = {Requirement(text).name for text in PROJECT["optional-dependencies"]["service"]}
    assert {name.replace("-", "_") for name in extra} == set(SERVICE_PACKAGES)
    assert extra.isdisjoint(Requirement(text).name for text in PROJECT["dependencies"])


@pytest.mark.process
def test_every_module_of_the_library_can_be_imported_without_the_extra() -> None:
    program = f"""
{WITHOUT_THE_EXTRA}
import importlib, pkgutil, neuron_lib
for found in pkgutil.walk_packages(neuron_lib.__path__, "neuron_lib."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.process
def test_without_the_extra_serve_says_what_to_install_and_listens_nowhere(tmp_path: Path) -> None:
    program = f"{WITHOUT_THE_EXTRA}; from neuron_service.cli import main; main(['serve', '--port', '0'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (os.EX_UNAVAILABLE, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("neuron: ")]
    assert line.startswith(
        "neuron: `neuron serve` needs the Python packages httptools, litestar, prometheus_client, uvicorn, uvloop;"
    )
    assert line.endswith("-m pip install 'neuron-node[service]'")


@pytest.mark.process
@pytest.mark.parametrize("command", ["ls", "serve --check-config", "--version", "--help"])
def test_without_the_extra_the_other_commands_work(command: str, tmp_path: Path) -> None:
    program = f"{WITHOUT_THE_EXTRA}; from neuron_service.cli import main; main({command.split()!r})"
    environ = os.environ | {"HF_HUB_CACHE": str(tmp_path), "NEURON_PORT": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=tmp_path, env=environ)


@pytest.mark.process
def test_importing_the_library_loads_nothing_heavy() -> None:
    heavy = {"llama_cpp", "litestar", "uvicorn", "huggingface_hub", "jinja2", "numpy", "asyncio", "trio"}
    program = f"import sys, neuron_lib; print(*sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("lock", [*LOCKS, *CLIENT_LOCKS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_lock_pins_and_hashes_everything_and_names_no_address(lock: Path) -> None:
    assert "://" not in lock.read_text()
    for requirement, hashes in locked(lock):
        assert str(requirement.specifier).startswith("=="), requirement
        assert hashes, requirement


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=lambda path: path.parent.name)
def test_a_lock_of_npm_pins_and_hashes_everything_and_names_no_address(lock: Path) -> None:
    packages = {name: entry for name, entry in json.loads(lock.read_text())["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert entry["version"], name
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name


@pytest.mark.parametrize(("name", "groups"), LOCKED_GROUPS)
def test_a_lock_satisfies_what_pyproject_asks_for(name: str, groups: list[str]) -> None:
    declared = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    versions = pins(ROOT / "requirements" / f"{name}.txt")
    for requirement in (Requirement(text) for group in groups for text in declared[group]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)], prereleases=True)


def test_every_lock_agrees_with_the_others() -> None:
    agreed: dict[str, str] = {}
    for lock in LOCKS:
        for name, version in pins(lock).items():
            assert agreed.setdefault(name, version) == version, f"{lock.name}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_of_a_document_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.system
@pytest.mark.parametrize(
    ("python", "advice"),
    [
        ("import sys; sys.version_info = (3, 10)", "needs Python 3.11 or newer"),
        ("import sys; sys.modules['ensurepip'] = None", "install its venv package"),
    ],
)
def test_make_says_what_is_wrong_with_a_python(tmp_path: Path, python: str, advice: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "sitecustomize.py").write_text(python)
    make = ["make", "install", f"PYTHON=PYTHONPATH='{tmp_path}' {sys.executable}"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert advice in done.stderr
    assert not (tmp_path / ".venv").exists()
