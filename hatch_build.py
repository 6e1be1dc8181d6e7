"""What hatchling does for this project beyond its own rules, when a wheel or an sdist is built.

BuiltCommit      writes the commit into the package, so that an installed neuron can say it (`GET /version`)
PublicMetadata   the addresses of the project, and a README whose links work on a page of a package index
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

BUILD_INFO: Final = "neuron_service/build_info.json"
_LINK: Final = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?!https?://|mailto:)(?P<target>[^)\s]+)\)")


class BuiltCommit(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves the argument out itself
    """Adds `build_info.json`. An sdist carries it, so that a wheel that is built from the sdist has it too.

    An editable installation gets none, because its checkout knows better.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build; `version` is the kind of wheel."""
        info = None if version == "editable" else _build_info(Path(self.root))
        if info is None:
            return
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name, "build_info.json")
        file.write_text(json.dumps(info) + "\n", encoding="utf-8")
        build_data["force_include"][str(file)] = BUILD_INFO

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's signature
        """Called after a build."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


class PublicMetadata(MetadataHookInterface):
    """Fills `readme` and `urls` in. The option `home` is the address of the repository, or empty while it has none."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called for everything that needs metadata, also for an editable installation."""
        home = str(self.config.get("home", "")).rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute_links(text, home)}
        metadata["urls"] = project_urls(home)


def absolute_links(text: str, home: str) -> str:
    """`text` with each relative link leading into the repository at `home`. Without a home, links become their text."""

    def replaced(link: re.Match[str]) -> str:
        image, shown, target = link["image"], link["text"], link["target"]
        if target.startswith("#"):
            return link[0]
        if not home:
            return "" if image else shown
        return f"{image}[{shown}]({home}/{'raw' if image else 'blob'}/main/{target})"

    return _LINK.sub(replaced, text)


def project_urls(home: str) -> dict[str, str]:
    """`[project.urls]`; empty without a home."""
    if not home:
        return {}
    return {
        "Source": home,
        "Documentation": f"{home}/blob/main/docs/index.md",
        "Changelog": f"{home}/blob/main/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }


def _build_info(root: Path) -> dict[str, Any] | None:
    """The commit of a checkout, or that in NEURON_GIT_SHA. None for an sdist, which has the file already."""
    if sha := os.environ.get("NEURON_GIT_SHA"):
        return {"commit": sha, "is_dirty": False}
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        is_dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None  # without git, or in the first commit's checkout: the version alone has to do
    return {"commit": commit, "is_dirty": is_dirty}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()  # noqa: S603 - fixed words
