"""Calls of a daemon over a real socket."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from neuron_service.client.address import Address, parse_address
from neuron_service.client.client import Client
from neuron_service.client.problem import DaemonProblem
from tests.fakes.fake_daemon import Answer, FakeDaemon, events, fake_daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon(tmp_path, {"GET /health": Answer({"status": "ready"}), "POST /x": Answer([1])}) as found:
        yield found


def client(daemon: FakeDaemon, key: str | None = None) -> Client:
    return Client(parse_address(daemon.host), key=key)


def test_a_call_sends_json_with_the_key_and_gives_the_answer(daemon: FakeDaemon) -> None:
    assert client(daemon).get("/health") == {"status": "ready"}
    assert client(daemon, "secret").post("/x", {"a": "é"}) == [1]
    first, second = daemon.seen
    assert "x-api-key" not in first.headers
    assert (second.headers["x-api-key"], second.headers["content-type"]) == ("secret", "application/json")
    assert second.body == {"a": "é"}


@pytest.mark.process
def test_a_call_over_tcp_has_the_prefix_of_the_address_before_its_path(process: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = parse_address(f"http://127.0.0.1:{listener.getsockname()[1]}/neuron")
        listener.settimeout(30)

        def answer() -> bytes:
            accepted, _ = listener.accept()
            with accepted:
                head = accepted.recv(4096)
                accepted.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                return head

        heads: list[bytes] = []
        thread = threading.Thread(target=lambda: heads.append(answer()))
        thread.start()
        assert Client(address).get("/health") == {}
        thread.join()
    assert heads[0].startswith(b"GET /neuron/health HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("answer", "exit_status", "said"),
    [
        (Answer({"error": "model a/b is already loaded"}, 400), 1, "model a/b is already loaded"),
        (Answer({"error": {"kind": "x", "message": "no\n\x1b[2Jroom"}}, 422), 1, "no ?[2Jroom"),
        (Answer({"error": {"message": "busy", "code": "queue_full"}}, 429), os.EX_TEMPFAIL, "busy"),
        (Answer({"error": {"message": "draining"}}, 503), os.EX_TEMPFAIL, "draining"),
        (Answer({"error": {"message": "no"}}, 401), os.EX_NOPERM, "wants an API key; put one into NEURON_API_KEY"),
        (Answer({"error": {"message": "the key lacks admin"}}, 403), os.EX_NOPERM, "the key lacks admin"),
        (Answer(b"oops", 500), os.EX_SOFTWARE, "answered with status 500 and did not say why"),
        (Answer(b"<html>"), os.EX_PROTOCOL, "is not neuron (its answer is not JSON)"),
        (Answer({"a": 1}, cut=True), os.EX_TEMPFAIL, "ended the connection before its answer was whole"),
    ],
)
def test_whatever_goes_wrong_is_one_sentence_with_an_exit_status(
    answer: Answer, exit_status: int, said: str, daemon: FakeDaemon
) -> None:
    daemon.answers["GET /health"] = answer
    with pytest.raises(DaemonProblem) as caught:
        client(daemon).get("/health")
    assert caught.value.exit_status == exit_status
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_key_that_is_not_known_is_not_shown(daemon: FakeDaemon) -> None:
    daemon.answers["GET /health"] = Answer({"error": {"message": "no"}}, 401)
    with pytest.raises(DaemonProblem, match="does not know the key in NEURON_API_KEY") as caught:
        client(daemon, "secret").get("/health")
    assert "secret" not in str(caught.value)


def test_where_nothing_listens_the_sentence_says_how_to_start_a_daemon(tmp_path: Path) -> None:
    with pytest.raises(DaemonProblem, match="start one with `neuron serve`") as caught:
        Client(Address(scheme="unix", host=str(tmp_path / "none"))).get("/health")
    assert caught.value.exit_status == os.EX_UNAVAILABLE


def test_a_daemon_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(DaemonProblem, match="did not answer in time") as caught:
            Client(Address(scheme="unix", host=str(tmp_path / "s"))).get("/health", timeout_s=0.01)
    assert caught.value.exit_status == os.EX_TEMPFAIL


def test_a_stream_gives_its_events_and_ends(daemon: FakeDaemon) -> None:
    daemon.answers["POST /x"] = events({"a": 1}, {"a": 2}, end=b"data: [DONE]\n\n")
    with client(daemon).stream("POST", "/x", {"b": 1}, headers={"last-event-id": "4"}) as found:
        assert [event.data for event in found] == ['{"a": 1}', '{"a": 2}', "[DONE]"]
    (seen,) = daemon.seen
    assert (seen.headers["accept"], seen.headers["last-event-id"]) == ("text/event-stream", "4")


def test_an_answer_that_is_no_stream_is_refused(daemon: FakeDaemon) -> None:
    with (
        pytest.raises(DaemonProblem, match="its answer is not a stream of events"),
        client(daemon).stream("GET", "/health"),
    ):
        pass
