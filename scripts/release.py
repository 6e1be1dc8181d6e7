"""Prepares a release and says what one still lacks: `make release VERSION=…` and `make release-check`.

`find_faults` decides from one `State`; everything else reads the checkout or changes it. CONTRIBUTING.md has the steps.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from packaging.version import InvalidVersion, Version

__all__ = ("State", "find_faults", "find_faults_of_artefacts", "why_not_next", "with_version")

ROOT: Final = Path(__file__).parents[1]
_VERSION_FILE: Final = ROOT / "neuron_lib/__init__.py"
_VERSION_LINE: Final = re.compile(r'^__version__ = "([^"\n]+)"$', re.MULTILINE)


class State(NamedTuple):
    """What a checkout says about its release. `tags` are all tags with the commit of each."""

    version: str
    head: str
    uncommitted: tuple[str, ...]
    tags: dict[str, str]
    changelog: str
    fragments: tuple[str, ...]
    home: str


def find_faults(state: State) -> Iterator[str]:
    """One sentence for each thing that a release of this checkout lacks, with the next step."""
    if Version(state.version).is_prerelease:
        yield f"the version is {state.version}: run `make release VERSION=…` with the version to release"
    else:
        if not re.search(rf"^## \[{re.escape(state.version)}\] - \d{{4}}-\d\d-\d\d$", state.changelog, re.MULTILINE):
            yield f"CHANGELOG.md has no section for {state.version}: run `towncrier build --version {state.version}`"
        if state.fragments:
            yield f"changes/ still has {', '.join(state.fragments)}: they belong into the section of this release"
    if state.uncommitted:
        yield f"not committed: {', '.join(state.uncommitted)}"
    tagged = state.tags.get(f"v{state.version}")
    if tagged not in {None, state.head}:
        yield f"the tag v{state.version} is at another commit, {tagged}: a version is released once, so take the next"
    if not state.home:
        yield "pyproject.toml says no address of the repository: set `home`, so that the package's links lead somewhere"


def find_faults_of_artefacts(version: str, names: frozenset[str]) -> Iterator[str]:
    """One sentence for each file in dist/ that is missing or too many, by their `names`."""
    expected = {f"neuron_node-{version}.tar.gz", f"neuron_node-{version}-py3-none-any.whl"}
    if missing := sorted(expected - names):
        yield f"dist/ lacks {', '.join(missing)}: run `make dist`"
    if others := sorted(names - expected):
        yield f"dist/ also has {', '.join(others)}: delete what is not of this release"


def why_not_next(new: str, *, current: str) -> str | None:
    """Why `new` cannot be the version after `current`. None if it can."""
    try:
        version = Version(new)
    except InvalidVersion:
        return f"{new!r} is no version: write 0.2.0, or 0.3.0.dev0 for the time after a release"
    if str(version) != new:
        return f"write {version} and not {new}"
    if version <= Version(current):
        return f"{new} is not after {current}, which is the version now"
    return None


def with_version(module: str, version: str) -> str:
    """The text of the module that has `__version__`, with another version. Raises ValueError if it has none."""
    text, count = _VERSION_LINE.subn(f'__version__ = "{version}"', module)
    if count != 1:
        msg = f"{_VERSION_FILE.relative_to(ROOT)} has {count} lines with __version__ and needs one"
        raise ValueError(msg)
    return text


def main() -> int:
    """Do what the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m scripts.release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="set the version, and make its section of the changelog")
    prepare.add_argument("version")
    commands.add_parser("check", help="say what a release of this checkout lacks")
    commands.add_parser("artefacts", help="say whether dist/ has the files of this version and nothing else")
    options = parser.parse_args()
    if options.command == "prepare":
        return _prepare(options.version)
    if options.command == "check":
        return _report(list(find_faults(_state())), well="the checkout is ready for")
    names = frozenset(path.name for path in (ROOT / "dist").glob("*"))
    return _report(list(find_faults_of_artefacts(_version(), names)), well="dist/ has the artefacts of")


def _prepare(version: str) -> int:
    problem = why_not_next(version, current=_version())
    if problem is None and (uncommitted := _uncommitted()):
        problem = f"not committed: {', '.join(uncommitted)}"
    if problem is not None:
        return _report([problem], well="")
    _VERSION_FILE.write_text(with_version(_VERSION_FILE.read_text(), version))
    if not Version(version).is_prerelease:
        build = [sys.executable, "-m", "towncrier", "build", "--yes", "--version", version]
        subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own words
    sys.stdout.write(f"The version is {version}. Read `git diff HEAD`, then commit.\n")
    return 0


def _report(faults: list[str], *, well: str) -> int:
    for fault in faults:
        sys.stderr.write(f"release: {fault}\n")
    if not faults:
        sys.stdout.write(f"release: {well} {_version()}\n")
    return 1 if faults else 0


def _state() -> State:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    hook: dict[str, Any] = project["hatch"].get("metadata", {}).get("hooks", {}).get("custom", {})
    ignored = project["towncrier"]["ignore"]
    tags = _git("tag", "--list", "--format=%(refname:short) %(objectname) %(*objectname)").splitlines()
    return State(
        version=_version(),
        head=_git("rev-parse", "HEAD").strip(),
        uncommitted=_uncommitted(),
        tags={tag.split()[0]: tag.split()[-1] for tag in tags},
        changelog=(ROOT / project["towncrier"]["filename"]).read_text(),
        fragments=tuple(sorted(each.name for each in (ROOT / "changes").iterdir() if each.name not in ignored)),
        home=hook.get("home", ""),
    )


def _version() -> str:
    match = _VERSION_LINE.search(_VERSION_FILE.read_text())
    return match[1] if match else ""


def _uncommitted() -> tuple[str, ...]:
    return tuple(line[3:] for line in _git("status", "--porcelain").splitlines())


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own words


if __name__ == "__main__":
    sys.exit(main())
