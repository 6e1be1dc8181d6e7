"""What is running: the answer of `GET /version` and of `neuron --version`."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType

import neuron_lib
import neuron_service

__all__ = ("Version", "find_version")

_GIT_LIMIT_S = 0.3


class Version(Struct, frozen=True, kw_only=True):
    """The body of `GET /version` (`docs/reference/wire-contract.md#version`).

    `git_sha` has 9 characters. It is "unknown" outside a checkout, unless `NEURON_GIT_SHA` names it.
    """

    package_version: str
    git_sha: str = "unknown"
    git_sha_long: str | UnsetType = UNSET
    git_dirty: bool = False
    features: tuple[str, ...] = ()


def find_version(environ: Mapping[str, str]) -> Version:
    """The installed version, and the commit if it is known. In a checkout this blocks for two short git calls."""
    package_version = neuron_lib.__version__
    if sha := environ.get("NEURON_GIT_SHA"):
        return Version(package_version=package_version, git_sha=sha[:9], git_sha_long=sha)
    root = Path(neuron_service.__file__).parent.parent
    if not (root / ".git").exists():
        return Version(package_version=package_version)
    sha = _git(root, "rev-parse", "HEAD")
    if not sha:
        return Version(package_version=package_version)
    is_dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return Version(package_version=package_version, git_sha=sha[:9], git_sha_long=sha, git_dirty=is_dirty)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
