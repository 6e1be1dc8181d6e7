"""The wheel and the sdist: what they hold, and what an installed copy does. Nothing is fetched."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import neuron_lib
from neuron_service.cli.service_packages import SERVICE_PACKAGES

ROOT = Path(__file__).parents[2]
HOST_FILES = {"neuron.example.toml", *(path.name for path in (ROOT / "neuron_service/host_files").iterdir())}
NEEDS_GIT = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git and a checkout"
)


class Distributions(NamedTuple):
    sdist: Path
    wheel: Path


class Installed(NamedTuple):
    python: Path
    neuron: Path


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(process: None, tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """What `make dist` makes: an sdist, and a wheel that is built from this sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="module")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own, which borrows the dependencies and not this project."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    borrowed = Path(sysconfig.get_path("purelib"))
    own = Path(run(home / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A .pth file adds the folder and reads no .pth files in it, so the editable installation of this project stays out.
    (own / "borrowed.pth").write_text(f"{borrowed}\n")
    run(sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "--no-deps", "--ignore-installed",
        "--no-index", "--quiet", "--disable-pip-version-check", distributions.wheel)  # fmt: skip
    return Installed(home / "bin/python", home / "bin/neuron")


def metadata_of(wheel: Path) -> str:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return archive.read(name).decode()


def test_the_index_would_show_the_description_of_both(distributions: Distributions) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions)


def test_the_wheel_has_no_stray_and_no_missing_file(distributions: Distributions) -> None:
    run(sys.executable, "-m", "check_wheel_contents", distributions.wheel)


def test_the_wheel_holds_the_two_packages_with_their_files_and_nothing_else(distributions: Distributions) -> None:
    names = [name for name in zipfile.ZipFile(distributions.wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"neuron_lib", "neuron_service"}
    expected = {"neuron_lib/py.typed", "neuron_service/py.typed", "neuron_service/demo.toml"}
    assert expected | {f"neuron_service/host_files/{name}" for name in HOST_FILES} <= set(names)


def test_the_example_in_the_wheel_is_the_one_of_the_checkout(distributions: Distributions) -> None:
    content = zipfile.ZipFile(distributions.wheel).read("neuron_service/host_files/neuron.example.toml")
    assert content == (ROOT / "neuron.example.toml").read_bytes()


def test_who_installs_the_library_gets_no_package_of_the_service(distributions: Distributions) -> None:
    about = metadata_of(distributions.wheel)
    assert f"\nVersion: {neuron_lib.__version__}\n" in about
    assert "\nProvides-Extra: service\n" in about
    unconditional = re.findall(r"^Requires-Dist: ([a-z-]+)(?!.*extra ==).*$", about, re.MULTILINE)
    assert set(SERVICE_PACKAGES).isdisjoint(name.replace("-", "_") for name in unconditional)


def test_the_description_on_an_index_has_no_link_that_leads_nowhere(distributions: Distributions) -> None:
    _, _, description = metadata_of(distributions.wheel).partition("\n\n")
    assert len(description) > 1000
    assert re.findall(r"\]\((?!https?://|#)[^)]*\)|(?:src|href|srcset)=\"(?!https?://|#)[^\"]*\"", description) == []


@NEEDS_GIT
def test_the_sdist_holds_every_file_of_the_project(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        (top,) = {name.split("/")[0] for name in archive.getnames()}
        held = {name.removeprefix(f"{top}/") for name in archive.getnames()}
    tracked = {name for name in run("git", "ls-files", "-z").split("\0") if name and (ROOT / name).exists()}
    assert {name for name in tracked - held if not name.startswith(".")} == set()


@NEEDS_GIT
def test_a_wheel_that_was_built_from_an_sdist_says_the_commit_of_the_checkout(distributions: Distributions) -> None:
    info = json.loads(zipfile.ZipFile(distributions.wheel).read("neuron_service/build_info.json"))
    assert info["commit"] == run("git", "rev-parse", "HEAD").strip()


@NEEDS_GIT
def test_an_installed_neuron_is_that_of_the_wheel_and_says_its_commit(installed: Installed, tmp_path: Path) -> None:
    sha = run("git", "rev-parse", "HEAD").strip()[:9]
    assert run(installed.neuron, "--version", cwd=tmp_path) == f"neuron {neuron_lib.__version__} ({sha})\n"
    where = run(installed.python, "-c", "import neuron_service; print(neuron_service.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.python.parents[1])


def test_an_installed_neuron_checks_a_configuration_and_finds_the_demo(installed: Installed, tmp_path: Path) -> None:
    run(installed.neuron, "serve", "--demo", "--check-config", cwd=tmp_path)


# ------------------------------------------------------------------------------------------- hatch_build.py


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "without", "at_home"),
    [
        ("[a](docs/a.md#b)", "a", "[a](https://h.example/n/blob/main/docs/a.md#b)"),
        ("![a](docs/a.png)", "", "![a](https://h.example/n/raw/main/docs/a.png)"),
        ("[a](#b) [c](https://c.example)", "[a](#b) [c](https://c.example)", "[a](#b) [c](https://c.example)"),
    ],
)
def test_links_lead_to_the_repository_or_become_text(hook: ModuleType, text: str, without: str, at_home: str) -> None:
    absolute_links: Callable[[str, str], str] = hook.absolute_links
    assert absolute_links(text, "") == without
    assert absolute_links(text, "https://h.example/n") == at_home


def test_the_addresses_of_the_project_come_from_its_home(hook: ModuleType) -> None:
    urls: dict[str, str] = hook.project_urls("https://h.example/n")
    assert urls["Source"] == "https://h.example/n"
    assert {"Documentation", "Changelog", "Issues"} <= urls.keys()
    assert all(url.startswith("https://h.example/n") for url in urls.values())
    assert hook.project_urls("") == {}


def test_the_home_in_pyproject_is_an_address_or_empty() -> None:
    pyproject: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    home: str = pyproject["tool"]["hatch"]["metadata"]["hooks"]["custom"]["home"]
    assert home == "" or home.startswith("https://")
