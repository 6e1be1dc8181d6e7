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
