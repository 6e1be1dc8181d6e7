import os
import socket

from neuron_service.http.tcp import bound_silence, has_gone, unix_peer


def test_a_unix_socket_has_gone_when_it_is_closed_and_not_when_it_only_stops_sending() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        assert not has_gone(ours)
        theirs.shutdown(socket.SHUT_WR)
        assert not has_gone(ours)
        theirs.close()
        assert has_gone(ours)


def test_a_unix_socket_knows_the_process_at_its_other_end_and_has_no_silence_to_bound() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bound_silence(ours, 1.0)
        assert unix_peer(ours) == {"pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid()}


def test_a_socket_of_tcp_has_no_process_at_its_other_end() -> None:
    with socket.socket() as sock:
        assert unix_peer(sock) is None
