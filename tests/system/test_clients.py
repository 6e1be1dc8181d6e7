"""The official clients, each through its driver, against a real daemon whose model says what it is told.

`make test-clients` tries more clients, each in an environment of its own.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.client import Client, drive, installed
from tests.clients.served import served
from tests.system.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.model]

DRIVERS = Path(__file__).parents[1] / "clients" / "drivers"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, minilm_path: Path) -> Iterator[Daemon]:
    with served(tmp_path_factory.mktemp("served"), minilm_path) as daemon:
        yield daemon


def failures(command: list[str], daemon: Daemon, folder: Path) -> list[str]:
    found = drive(command, daemon.url, folder, {"PYTHONDONTWRITEBYTECODE": "1"})
    assert any(outcome.outcome == "ok" for outcome in found.values())
    return [f"{feature}: {outcome.detail}" for feature, outcome in found.items() if outcome.outcome == "fail"]


@pytest.mark.parametrize("driver", ["openai_python.py", "anthropic_python.py"])
def test_an_official_client_for_python_does_all_that_it_can(driver: str, daemon: Daemon, tmp_path: Path) -> None:
    assert failures([sys.executable, str(DRIVERS / driver)], daemon, tmp_path) == []


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not installed")
def test_the_official_client_for_javascript_does_all_that_it_can(daemon: Daemon, tmp_path: Path) -> None:
    client = Client("openai (npm)", "npm-openai", "openai_npm.mjs", ("openai",))
    try:
        command = installed(client, tmp_path)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot install the client here: {error}")
    assert failures(command, daemon, tmp_path) == []
