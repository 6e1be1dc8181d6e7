import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from neuron_lib.config import Config
from neuron_service.server import _stop_limit_s
from tests.fakes.notify_socket import notify_socket
from tests.patience import PATIENCE_S

STUCK = """
import anyio
from neuron_lib import Registry
from neuron_service.log_config import configure_logging
from neuron_service.server import _end_without_unloading
configure_logging("info")
anyio.run(_end_without_unloading, Registry(), 0)
"""


@pytest.mark.process
def test_a_stuck_shutdown_exits_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUCK], check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0
    assert "ERROR   neuron_service.server: shutdown is stuck" in done.stderr


FAILING = """
import neuron_service.cli, neuron_service.server
async def serve(*_, **__):
    raise RuntimeError("a bug")
neuron_service.server.serve = serve
neuron_service.cli.main(["--demo", "--port", "0"])
"""


@pytest.mark.process
def test_a_bug_that_ends_the_service_is_exit_70_and_is_told_to_the_log_and_to_systemd(tmp_path: Path) -> None:
    with notify_socket(str(tmp_path / "notify")) as manager:
        environ = os.environ | {"NOTIFY_SOCKET": manager.address}
        done = subprocess.run(
            [sys.executable, "-c", FAILING],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=environ,
        )
        assert manager.told() == [{"STATUS": "failed: RuntimeError: a bug"}]
    assert done.returncode == os.EX_SOFTWARE
    assert "CRITICAL neuron_service.cli.serve: the service failed" in done.stderr
    assert "RuntimeError: a bug" in done.stderr


EARLY = """
import os
import neuron_service.cli, neuron_service.server
async def serve(*_, **__):
    os.kill(os.getpid(), {signum})
    raise AssertionError("the signal was not obeyed")
neuron_service.server.serve = serve
neuron_service.cli.main(["--demo", "--port", "0"])
"""


@pytest.mark.process
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_port_is_open_and_before_anybody_receives_it_is_exit_0(signum: signal.Signals) -> None:
    script = EARLY.format(signum=int(signum))
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_with_the_longest_drain_is_over_before_systemd_would_kill_the_unit() -> None:
    unit = (Path(__file__).parents[2] / "data/neuron.service").read_text()
    assert "\nTimeoutStopSec=120s\n" in unit
    assert _stop_limit_s(msgspec.convert({"drain_timeout_secs": 90}, Config).drain_timeout_secs) < 120
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"drain_timeout_secs": 90.1}, Config)
