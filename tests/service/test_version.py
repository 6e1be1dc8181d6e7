import os
import shutil
import subprocess
from pathlib import Path

import pytest

import neuron_service
from neuron_service.version import find_version


def test_the_environment_names_the_commit_of_a_package_without_a_checkout() -> None:
    version = find_version({"NEURON_GIT_SHA": "0123456789abcdef0123456789abcdef01234567"})
    assert (version.git_sha, version.git_sha_long) == ("012345678", "0123456789abcdef0123456789abcdef01234567")


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_service, "__file__", str(tmp_path / "neuron_service" / "__init__.py"))
    assert find_version({}).git_sha == "unknown"


@pytest.mark.process
def test_a_broken_checkout_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(neuron_service, "__file__", str(tmp_path / "neuron_service" / "__init__.py"))
    assert find_version({}).git_sha == "unknown"


@pytest.mark.process
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_in_a_checkout_git_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    tracked = tmp_path / "tracked"
    tracked.write_text("a")
    git("init", "-q")
    git("add", "tracked")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(neuron_service, "__file__", str(tmp_path / "neuron_service" / "__init__.py"))

    version = find_version({})
    assert version.git_sha_long == git("rev-parse", "HEAD")
    assert not version.git_dirty
    tracked.write_text("b")
    assert find_version({}).git_dirty


def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build_info: str) -> None:
    package = tmp_path / "neuron_service"
    package.mkdir()
    (package / "build_info.json").write_text(build_info)
    monkeypatch.setattr(neuron_service, "__file__", str(package / "__init__.py"))


def test_an_installed_package_says_the_commit_that_it_was_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed_package(tmp_path, monkeypatch, '{"commit": "0123456789abcdef", "is_dirty": true}')
    version = find_version({})
    assert (version.git_sha, version.git_sha_long, version.git_dirty) == ("012345678", "0123456789abcdef", True)


@pytest.mark.parametrize("content", ["", "{}", '{"commit": 5, "is_dirty": false}', "\0"])
def test_a_damaged_note_of_the_build_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    installed_package(tmp_path, monkeypatch, content)
    assert find_version({}).git_sha == "unknown"
