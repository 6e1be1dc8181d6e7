import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]
BUSY_ENGINE = """
import os, socket, sys, threading, time
from neuron_lib.engine.process import end_with_daemon
sock = socket.socket(fileno=int(sys.argv[1]))
threading.Thread(target=end_with_daemon, args=(sock, os.getppid()), daemon=True).start()
sock.sendall(b"!")
time.sleep(60)
"""
FORKED_HOST = """
import os, socket, subprocess, sys, time

pytestmark = pytest.mark.process
ours, theirs = socket.socketpair()
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(theirs.fileno())], pass_fds=[theirs.fileno()])
theirs.close()
assert ours.recv(1) == b"!"
worker = os.fork()
if worker:
    print(worker, flush=True)
else:
    os.close(1)
time.sleep(60)
"""


def test_an_engine_whose_main_thread_is_busy_still_ends_with_its_daemon() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        engine = subprocess.Popen(
            [sys.executable, "-c", BUSY_ENGINE, str(theirs.fileno())], pass_fds=[theirs.fileno()], cwd=ROOT
        )
    with ours:
        assert ours.recv(1) == b"!"
        ours.sendall(b"commands nobody reads")
        assert engine.poll() is None
    assert engine.wait(timeout=PATIENCE_S) == 0


def test_an_engine_ends_with_its_daemon_though_a_child_that_this_has_forked_holds_its_socket() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKED_HOST, BUSY_ENGINE], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as host:
        assert host.stdout is not None
        worker = int(host.stdout.readline())
        try:
            host.kill()
            host.communicate(timeout=PATIENCE_S)  # until the engine, which writes there too, has ended
            os.kill(worker, 0)
        finally:
            os.kill(worker, signal.SIGKILL)
