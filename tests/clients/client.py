"""One real client: where its packages are locked, its environment, and what its driver finds of each feature.

The driver is a program in `drivers/`. It runs in the client's environment, against a daemon whose address is in
`NEURON_URL`, and prints one line of JSON for each feature (`drivers/report.py`, `drivers/report.mjs`).
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

__all__ = ("FEATURES", "LOCKS", "Client", "Outcome", "drive", "install_python", "installed", "versions")

_DRIVERS: Final = Path(__file__).with_name("drivers")
LOCKS: Final = Path(__file__).parents[2] / "requirements" / "clients"
_LIMIT_S: Final = 900
"""For one driver, and for one installation. Only a client that hangs takes so long."""

FEATURES: Final[list[str]] = json.loads((_DRIVERS / "texts.json").read_text(encoding="utf-8"))["features"]

_QUIET: Final = {
    "AIDER_ANALYTICS": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}
"""Nothing calls home. The daemon speaks plain HTTP, and what speaks HTTPS is sent to a port where nobody listens."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the matrix. `lock` is the name of its lock in requirements/clients."""

    name: str
    lock: str
    driver: str
    packages: tuple[str, ...]
    """Those whose versions the table shows, the client itself first."""

    @property
    def is_npm(self) -> bool:
        return self.lock.startswith("npm-")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a driver says of one feature. `detail` is the error, or why the client has no such feature."""

    outcome: Literal["ok", "fail", "none"]
    detail: str


def versions(client: Client) -> list[str]:
    """The locked versions of the packages that the table shows."""
    if client.is_npm:
        locked = json.loads((LOCKS / client.lock / "package-lock.json").read_text(encoding="utf-8"))["packages"]
        return [locked[f"node_modules/{package}"]["version"] for package in client.packages]
    lock = (LOCKS / f"{client.lock}.txt").read_text(encoding="utf-8")
    return [
        match.group(1)
        for package in client.packages
        if (match := re.search(rf"^{re.escape(package)}(?:\[[^]]*\])?==([^\s;]+)", lock, re.MULTILINE))
    ]


def installed(client: Client, folder: Path) -> list[str]:
    """Install the client's locked packages into `folder`, if they are not there. Returns the command of its driver.

    Raises `subprocess.CalledProcessError` where the package registry or the lock refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = LOCKS / client.lock / "package-lock.json" if client.is_npm else LOCKS / f"{client.lock}.txt"
    stamp, wanted = folder / "installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        (_install_npm if client.is_npm else install_python)(lock, folder)
        stamp.write_text(wanted)
    if not client.is_npm:
        return [str(folder / "bin" / "python"), str(_DRIVERS / client.driver)]
    for file in ("page.html", "report.mjs", "texts.json", *(path.name for path in _DRIVERS.glob("*_npm.mjs"))):
        shutil.copy(_DRIVERS / file, folder)  # packages are looked for from where the program lies
    if client.driver.endswith(".py"):
        return [sys.executable, str(_DRIVERS / client.driver), str(folder.absolute()), shutil.which("chromium") or ""]
    return ["node", str(folder.absolute() / client.driver)]


def install_python(lock: Path, folder: Path) -> None:
    """Make a new environment in `folder` with the packages of the lock, and nothing else.

    Raises `subprocess.CalledProcessError` where the package registry or the lock refuses.
    """
    venv.create(folder, clear=True, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--quiet", "--no-input"]
    command = [*pip, "--disable-pip-version-check", "install", "--require-hashes", "--no-deps", "-r", str(lock)]
    subprocess.run(command, check=True, timeout=_LIMIT_S)


def _install_npm(lock: Path, folder: Path) -> None:
    for file in ("package.json", "package-lock.json"):
        shutil.copy(lock.with_name(file), folder)
    options = [
        "--ignore-scripts",
        "--prefer-offline",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
        "--loglevel=error",
    ]
    npm = shutil.which("npm")
    assert npm is not None, "npm is not installed"
    subprocess.run([npm, "ci", *options], check=True, timeout=_LIMIT_S, cwd=folder)


def drive(command: list[str], url: str, folder: Path, environ: Mapping[str, str] | None = None) -> dict[str, Outcome]:
    """Run a driver against the daemon at `url`, with its home in `folder`. Returns what it says of every feature.

    Raises `AssertionError` if the driver breaks off.
    """
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    ended = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        cwd=home,
        env={**kept, **_QUIET, "HOME": str(home), "NEURON_URL": url, **(environ or {})},
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"feature"')]
    found = {line["feature"]: Outcome(line["outcome"], line["detail"]) for line in lines}
    assert ended.returncode == 0, f"{command[-1]} ended with {ended.returncode}: {ended.stderr[-2000:]}"
    assert list(found) == FEATURES, (
        f"{command[-1]} said nothing of {set(FEATURES) - set(found)}: {ended.stderr[-2000:]}"
    )
    return found
