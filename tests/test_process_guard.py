import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.process_guard import refuse_processes


def run_a_program() -> None:
    subprocess.run([sys.executable, "-V"], check=True, capture_output=True)


def spawn() -> None:
    os.waitpid(os.posix_spawn(sys.executable, [sys.executable, "-V"], {}), 0)


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def listen() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()


def connect() -> None:
    with socket.socket() as sock:
        sock.connect_ex(("127.0.0.1", 1))


def run_a_program_in_a_thread() -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(run_a_program).result()


ACTS = [run_a_program, spawn, fork, listen, connect, run_a_program_in_a_thread]


@pytest.mark.process  # or this test itself would be refused what it does in the block
@pytest.mark.parametrize("act", ACTS)
def test_a_test_without_the_marker_fails_when_it_starts_a_process_or_opens_a_socket(act: Callable[[], None]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"not marked `process`.*pytest\.mark\.process"), refuse_processes():
        act()


@pytest.mark.process
@pytest.mark.parametrize("act", ACTS)
def test_it_fails_also_if_the_code_under_test_swallows_every_exception(act: Callable[[], None]) -> None:
    with (
        pytest.raises(pytest.fail.Exception, match="not marked `process`"),
        refuse_processes(),
        suppress(BaseException),
    ):
        act()


def test_sockets_that_no_other_test_can_reach_need_no_marker(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.bind(str(tmp_path / "socket"))
        sock.listen()
        client.connect(str(tmp_path / "socket"))


@pytest.fixture
def server(process: None) -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_fixture_that_requests_process_marks_the_tests_that_get_it(
    address: str, request: pytest.FixtureRequest
) -> None:
    assert request.node.get_closest_marker("process") is not None


@pytest.mark.system
def test_a_test_of_the_real_program_counts_as_one_that_starts_a_process(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("process") is not None
