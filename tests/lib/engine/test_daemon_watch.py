import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
BUSY_ENGINE = """
import socket, sys, threading, time
from neuron_lib.engine.__main__ import _end_with_daemon
sock = socket.socket(fileno=int(sys.argv[1]))
threading.Thread(target=_end_with_daemon, args=(sock,), daemon=True).start()
sock.sendall(b"!")
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
    assert engine.wait(timeout=30) == 0
