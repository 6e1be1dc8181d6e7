"""The commands that talk to a service, against a real one with the real model."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.system.daemon import COMMAND, MODELS, Daemon, running_daemon

pytestmark = [pytest.mark.system, pytest.mark.model]


def neuron(daemon: Daemon, *arguments: str) -> tuple[int, str]:
    command = [*COMMAND, *arguments, "--host", f"127.0.0.1:{daemon.port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    return done.returncode, done.stdout or done.stderr


def test_a_model_is_loaded_shown_and_unloaded_and_the_service_stopped(tmp_path: Path) -> None:
    with running_daemon(tmp_path, MODELS) as daemon:
        assert neuron(daemon, "load", "test/one") == (0, "test/one is loaded\n")
        status, text = neuron(daemon, "ps", "--json")
        (model,) = json.loads(text)["models"]
        assert (status, model["id"], model["state"], model["running"]) == (0, "test/one", "loaded", 0)
        status, text = neuron(daemon, "show", "test/one")
        assert (status, text.splitlines()[0].split()) == (0, ["service", "loaded:", "test/one"])
        assert neuron(daemon, "unload", "test/one") == (0, "test/one is unloaded\n")
        assert neuron(daemon, "stop") == (0, f"neuron has ended (process {daemon.process.pid})\n")
        assert daemon.wait() == 0
