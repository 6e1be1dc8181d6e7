import subprocess
import sys

STUCK = """
import anyio
from neuron_lib import Registry
from neuron_service.log_config import configure_logging
from neuron_service.server import _end_without_unloading
configure_logging("info")
anyio.run(_end_without_unloading, Registry(), 0)
"""


def test_a_shutdown_that_is_stuck_ends_all_the_same_and_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert "ERROR   neuron_service.server: shutdown is stuck" in done.stderr
