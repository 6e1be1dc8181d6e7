"""The examples for Ray on a cluster of two nodes, one of which is lost. `make test-fleet` runs this file.

The program in `drivers/` runs in Ray's own environment and says what it sees. The rules are here.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil
import pytest

from tests.fleet.environments import installed, quiet_environment
from tests.patience import PATIENCE_S
from tests.system.daemon import ROOT, free_port

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(3600)]  # packages may be fetched

DRIVER: Final = Path(__file__).with_name("drivers") / "ray_serve.py"
LIMIT_S: Final = 2700
CLIENTS: Final = 8
MODEL: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
ROWS: Final = 12


@pytest.fixture(scope="module")
def seen(process: None) -> Iterator[dict[str, Any]]:
    """Everything that the driver said. Its folder has a short name, because Ray makes sockets in it."""
    with TemporaryDirectory(prefix="ray-") as name:
        folder = Path(name)
        environ = quiet_environment(
            folder,
            {
                "PYTHONPATH": str(ROOT / "examples" / "ray_serve"),
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every address of the cluster is 127.0.0.1, as on a laptop
                "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
                "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
                "RAY_TMPDIR": name,
                "RAY_worker_niceness": "0",  # by default 15: beside other work they would hardly run
                "SERVE_PORT": str(free_port()),
            },
        )
        command = [str(installed("ray", with_neuron=True) / "python"), str(DRIVER), name]
        try:
            with (folder / "said").open("w") as said, (folder / "errors").open("w") as errors:
                done = subprocess.run(command, check=False, stdout=said, stderr=errors, timeout=LIMIT_S, env=environ)
        finally:
            left = _processes_left(name)
        lines = [line for line in (folder / "said").read_text().splitlines() if line.startswith("{")]
        print("", *lines, sep="\n  ")
        assert done.returncode == 0, (folder / "errors").read_text()[-3000:]
        seen = {name: value for line in lines for name, value in json.loads(line).items()}
        yield seen | {"processes_left": left}


def _processes_left(home: str) -> list[str]:
    """The commands of the processes of a run that did not end by themselves. They are killed."""
    left = [process for process in psutil.process_iter() if _is_of(process, home=home)]
    _, alive = psutil.wait_procs(left, timeout=PATIENCE_S)
    commands = [" ".join(process.cmdline()) for process in alive]
    for process in alive:
        process.kill()
    return commands


def _is_of(process: psutil.Process, *, home: str) -> bool:
    try:
        return process.environ().get("HOME") == home and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def test_a_replica_serves_the_api_of_a_host_and_streams(seen: dict[str, Any]) -> None:
    assert (seen["nodes"], seen["first_chat"]) == (2, "")
    assert [model["id"] for model in json.loads(seen["models"])["data"]] == [MODEL]


def test_the_number_of_replicas_follows_the_requests_that_the_registries_count(seen: dict[str, Any]) -> None:
    assert (seen["replicas_at_rest"], seen["engines"]) == (1, 1)
    assert seen["replicas_under_load"] == 2


def test_the_loss_of_a_node_fails_only_calls_in_flight_and_leaves_no_engine(seen: dict[str, Any]) -> None:
    assert seen["engines_after_the_loss_of_a_node"]
    assert seen["failed_before_the_loss"] == 0
    assert seen["failed"] <= seen["in_flight_at_the_loss"] + seen["failed_that_began_later"]
    assert seen["failed_that_began_later"] <= CLIENTS  # until Ray has noticed
    assert seen["calls"] > seen["failed"]


def test_a_new_node_gets_a_replica_without_a_failed_call(seen: dict[str, Any]) -> None:
    assert seen["failed_after_a_new_node"] == []


def test_the_end_of_the_application_ends_all_engines(seen: dict[str, Any]) -> None:
    assert seen["engines_after_the_shutdown"] == []


def test_a_batch_job_answers_every_row_once_and_ends_its_engine(seen: dict[str, Any]) -> None:
    assert (seen["rows"], seen["answered"], seen["questions"]) == (ROWS, ROWS, True)
    assert seen["engines_after_the_job"] == []


def test_the_end_of_the_cluster_leaves_no_process(seen: dict[str, Any]) -> None:
    assert seen["processes_left"] == []
