import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from neuron_service.http.listening import bind, file_removed_at_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "neuron.sock"


def listen(path: Path, *, socket_mode: int = 0o660) -> socket.socket:
    return bind(f"unix:{path}", 0, socket_mode=socket_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_of_a_socket_has_its_permissions_whatever_the_umask_is(path: Path, mode: int) -> None:
    before = os.umask(0o027)
    try:
        with listen(path, socket_mode=mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_the_file_of_a_service_that_has_ended_is_replaced(path: Path) -> None:
    listen(path).close()
    with listen(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_on_which_somebody_listens_is_taken(path: Path) -> None:
    with listen(path), pytest.raises(OSError, match="in use") as caught:
        listen(path)
    assert caught.value.errno == errno.EADDRINUSE


def test_a_socket_with_a_full_backlog_is_taken_too(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OSError, match="in use"):
            listen(path)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("a letter")
    with pytest.raises(OSError, match="no socket"):
        listen(path)
    assert path.read_text() == "a letter"


def test_the_file_goes_with_the_service(path: Path) -> None:
    with listen(path) as sock, file_removed_at_end(sock):
        assert path.exists()
    assert not path.exists()


def test_the_file_of_the_next_service_stays(path: Path) -> None:
    with listen(path) as sock, file_removed_at_end(sock):
        path.unlink()
        successor = listen(path)
    with successor:
        assert path.exists()
