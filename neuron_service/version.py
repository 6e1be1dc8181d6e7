"""What is running: the answer of `GET /version` and of `neuron --version`."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from msgspec import UNSET, DecodeError, Struct, UnsetType, json

import neuron_lib
import neuron_service

__all__ = ("Version", "find_version")

_GIT_LIMIT_S = 0.3
_BUILD_INFO = "build_info.json"
"""Written by hatch_build.py."""


class Version(Struct, frozen=True, kw_only=True):
    """The body of `GET /version` (`docs/reference/wire-contract.md#version`).

    `git_sha` has 9 characters. `NEURON_GIT_SHA` names it, else the checkout, else `build_info.json`, which is written
    into every wheel and sdist that is built in a checkout. Where none of them is there, it is "unknown".
    """

    package_version: str
    git_sha: str = "unknown"
    git_sha_long: str | UnsetType = UNSET
    git_dirty: bool = False
    features: tuple[str, ...] = ()


class _BuildInfo(Struct, frozen=True, kw_only=True):
    commit: str
    is_dirty: bool


def find_version(environ: Mapping[str, str]) -> Version:
    """The installed version, and the commit if it is known. In a checkout this blocks for two short git calls."""
    package_version = neuron_lib.__version__
    if sha := environ.get("NEURON_GIT_SHA"):
        return _version_at(package_version, sha, is_dirty=False)
    package = Path(neuron_service.__file__).parent
    if not (package.parent / ".git").exists():
        return _version_of_a_build(package_version, package)
    sha = _git(package.parent, "rev-parse", "HEAD")
    if not sha:
        return Version(package_version=package_version)
    is_dirty = bool(_git(package.parent, "status", "--porcelain", "--untracked-files=no"))
    return _version_at(package_version, sha, is_dirty=is_dirty)


def _version_at(package_version: str, sha: str, *, is_dirty: bool) -> Version:
    return Version(package_version=package_version, git_sha=sha[:9], git_sha_long=sha, git_dirty=is_dirty)


def _version_of_a_build(package_version: str, package: Path) -> Version:
    try:
        info = json.decode((package / _BUILD_INFO).read_bytes(), type=_BuildInfo)
    except (OSError, DecodeError):
        return Version(package_version=package_version)
    return _version_at(package_version, info.commit, is_dirty=info.is_dirty)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True)  # noqa: S603 - git
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
