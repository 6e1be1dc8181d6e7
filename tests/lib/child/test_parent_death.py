import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from neuron_lib.child.parent_death import bound_to_parent
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[3]
BUSY_ENGINE = """
import os, socket, sys, threading, time
from neuron_lib.child.parent_death import end_without_parent
sock = socket.socket(fileno=int(sys.argv[1]))
threading.Thread(target=end_without_parent, args=(os.getppid(), sock.fileno()), daemon=True).start()
sock.sendall(b"!")
time.sleep(600)
"""
FORKED_HOST = """
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(theirs.fileno())], pass_fds=[theirs.fileno()])
theirs.close()
assert ours.recv(1) == b"!"
worker = os.fork()
if worker:
    print(worker, flush=True)
else:
    os.close(1)
time.sleep(600)
"""

pytestmark = pytest.mark.process


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


HOST_OF_A_PROGRAM = """
import subprocess, sys, time
from neuron_lib.child.parent_death import bound_to_parent
command = bound_to_parent(["sh", "-c", "echo $$; exec sleep 600"], ends_with_thread=True)
subprocess.Popen(command, start_new_session=True)
time.sleep(600)
"""


def test_a_program_of_others_ends_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOST_OF_A_PROGRAM], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as host:
        assert host.stdout is not None
        program = psutil.Process(int(host.stdout.readline()))
        host.kill()
        assert host.stdout.read() == ""  # until the program, which writes there too, has ended
    psutil.wait_procs([program], timeout=PATIENCE_S)
    assert not program.is_running()


def test_a_program_that_is_not_bound_to_its_parent_is_started_as_it_is() -> None:
    assert bound_to_parent(["vllm", "serve"], ends_with_thread=False) == ("vllm", "serve")


def test_a_program_whose_parent_is_gone_already_does_not_begin() -> None:
    command = bound_to_parent(["echo", "begun"], ends_with_thread=True)
    gone = [argument if argument != str(os.getpid()) else "1" for argument in command]
    assert subprocess.run(gone, stdout=subprocess.PIPE, check=True).stdout == b""


def test_a_program_that_does_not_exist_is_an_exit_status_with_words() -> None:
    command = bound_to_parent(["/nonexistent/program"], ends_with_thread=True)
    ended = subprocess.run(command, stderr=subprocess.PIPE, check=False, text=True)
    assert ended.returncode == 1
    assert ended.stderr.endswith("No such file or directory\n")
