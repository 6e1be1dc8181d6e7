"""Clients that are slow, many, faulty or gone, over real sockets: the tests that need a kernel or the whole service.

Rules of a connection alone are in `tests/service/http`, where time is a number.
"""

import json
import logging
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import anyio
import pytest

from neuron_lib.testing import ScriptedModel
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.limits import ConnectionLimits
from tests.fakes.listening_host import ListeningHost, listening_host, raw_chat, raw_head
from tests.patience import PATIENCE_S
from tests.system.daemon import eventually

pytestmark = pytest.mark.process

A = "org/a"
CHAT = "/v1/chat/completions"
CHUNKED_CHAT = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
GET_HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
LIMITS = ConnectionLimits(head_s=0.15, body_s=0.15, last_words_s=3600)


@pytest.fixture(scope="module")
def host() -> Iterator[ListeningHost]:
    """A host whose receive deadlines are short."""
    with listening_host(resident=[A], limits=LIMITS) as host:
        yield host


def outlast_a_head(host: ListeningHost) -> None:
    """Wait until a new connection has been closed because it was silent."""
    with host.connect() as silent:
        assert silent.is_closed()


# ------------------------------------------------------------------------------------------------------ deadlines


def test_a_connection_that_never_sends_anything_is_closed_without_an_answer(host: ListeningHost) -> None:
    outlast_a_head(host)


def test_a_head_that_does_not_end_is_a_408_and_the_end_of_the_connection(host: ListeningHost) -> None:
    with host.connect() as client:
        client.send(b"GET /health HTTP/1.1\r\nhost: x\r\n")
        reply = client.reply()
        assert (reply.status, reply.error()["code"]) == (408, "request_timeout")
        assert reply.headers["connection"] == "close"
        assert client.is_closed()


def test_a_body_that_does_not_end_is_a_408_and_is_never_decoded(
    host: ListeningHost, caplog: pytest.LogCaptureFixture
) -> None:
    with host.connect() as client:
        client.send(raw_head("POST", CHAT, content_length=100) + b'{"model":')
        reply = client.reply()
        assert (reply.status, reply.error()["code"]) == (408, "request_timeout")
        assert client.is_closed()
        eventually(host.is_idle)
    assert any(record.__dict__.get("status") == 408 and record.__dict__["path"] == CHAT for record in caplog.records)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_an_early_answer_arrives_although_the_body_is_still_being_sent(host: ListeningHost, version: str) -> None:
    with host.connect() as client:
        client.send(b"POST /nothing HTTP/%s\r\nconnection: close\r\ncontent-length: 9\r\n\r\n" % version.encode())
        assert client.reply().status == 404
        assert client.is_closed()
        for _ in range(2):  # the first would be answered by a reset, and the second raise
            client.send(b"x")


def test_trailers_beyond_the_bound_are_refused_and_nothing_of_their_request_stays() -> None:
    with listening_host() as host, host.connect() as client:
        client.send(CHUNKED_CHAT + b"2\r\n{}\r\n0\r\n")
        host.get("/health")  # so the body has arrived
        client.send(b"a: b\r\n" * 40_000)
        reply = client.reply()
        assert (reply.status, reply.error()["code"]) == (400, "malformed_http")
        assert client.is_closed()
        eventually(host.is_idle)


def test_a_body_in_chunks_is_read_and_its_trailers_are_ignored(host: ListeningHost) -> None:
    body = raw_chat(A).partition(b"\r\n\r\n")[2] + b" " * 20_000
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    with host.connect() as client:
        for _ in range(2):
            client.send(CHUNKED_CHAT + chunks + b"0\r\nx: y\r\nexpect: 100-continue\r\n\r\n")
            assert client.reply().status == 200


def test_a_client_that_waits_for_100_continue_gets_it(host: ListeningHost) -> None:
    head, _, body = raw_chat(A).replace(b"host: x", b"expect: 100-continue").partition(b"\r\n\r\n")
    with host.connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(body)
        assert client.reply().status == 200


def test_a_connection_that_is_idle_for_too_long_is_closed() -> None:
    with listening_host(limits=ConnectionLimits(idle_s=1)) as host, host.connect() as client:
        client.send(GET_HEALTH)
        assert client.reply().status == 200
        assert client.is_closed()


# --------------------------------------------------------------------------------------------------------- the end


def test_a_client_that_still_sends_when_the_host_ends_gets_an_answer() -> None:
    with ExitStack() as clients:
        with listening_host(resident=[A]) as host:
            client = clients.enter_context(host.connect())
            client.send(raw_chat(A)[:-1])
            host.get("/health")  # so that has arrived
        reply = client.reply()
        assert (reply.status, reply.error()["code"]) == (503, "shutting_down")
        assert (reply.headers["retry-after"], reply.headers["connection"]) == ("15", "close")


def test_a_client_that_is_too_slow_with_a_body_that_was_already_answered_is_not_reset() -> None:
    with listening_host(limits=ConnectionLimits(body_s=0.1)) as host, host.connect() as client:
        client.send(raw_head("POST", "/nothing", content_length=10))
        assert client.reply().status == 404
        assert client.is_closed()  # its time is over
        for _ in range(2):  # the first would be answered by a reset, and the second raise
            client.send(b"x")


# ---------------------------------------------------------------------------------------------------- many clients


def test_beyond_the_limit_questions_are_answered_and_work_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with listening_host(resident=[A], cap=ConnectionCap(2, spare=8)) as host, ExitStack() as held:
        seated = [held.enter_context(host.connect()) for _ in range(2)]
        for client in seated:
            client.send(GET_HEALTH)
            assert client.reply().status == 200
        for _ in range(3):
            with host.connect() as late:
                late.send(raw_chat(A))
                reply = late.reply()
                assert (reply.status, reply.error()["type"]) == (503, "rate_limit_error")
                assert (reply.headers["retry-after"], reply.headers["connection"]) == ("5", "close")
                assert late.is_closed()
        with host.connect() as late:
            late.send(GET_HEALTH)
            reply = late.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
        for client in seated:
            client.send(raw_chat(A))
            assert client.reply().status == 200
        seated[0].sock.close()
        eventually(lambda: host.open_connections == 1)
        with host.connect() as next_one:
            next_one.send(raw_chat(A))
            assert next_one.reply().status == 200
    told = [record for record in caplog.records if record.name.endswith("http.cap")]
    assert [record.levelname for record in told] == ["WARNING", "INFO"]
    assert told[0].__dict__["max_connections"] == 2
    assert told[1].__dict__["refused_connections"] == 4


def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    with listening_host(cap=ConnectionCap(0, spare=8)) as host, host.connect() as client:
        client.send(raw_head("POST", CHAT, content_length=1 << 20))
        client.send(b" " * (1 << 20))
        assert client.reply().status == 503
        assert client.is_closed()


def test_beyond_the_spare_places_connections_are_closed_at_once() -> None:
    with listening_host(cap=ConnectionCap(0, spare=0)) as host, host.connect() as client:
        assert client.reply().status == 503
        assert client.is_closed()


def test_a_process_takes_all_the_descriptors_that_it_may_have() -> None:
    program = """
import resource
from neuron_service.http.cap import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 200))
print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.stdout.split() == ["200", "200", "200"]


def test_of_a_thousand_clients_at_a_short_line_each_is_served_or_told_when_to_come_back() -> None:
    script = ScriptedModel(max_in_flight=2, max_queue_depth=30)
    replies: list[bytes] = []
    health: list[int] = []

    async def ask(port: int) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(raw_chat(A).replace(b"host: x", b"connection: close"))
            replies.append(b"".join([chunk async for chunk in stream]))

    async def ask_all(host: ListeningHost) -> None:
        async def poll() -> None:
            while True:
                health.append((await anyio.to_thread.run_sync(host.get, "/health")).status)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(poll)
            async with anyio.create_task_group() as clients:
                for _ in range(1000):
                    clients.start_soon(ask, host.port)
            tasks.cancel_scope.cancel()

    with listening_host({A: script}, resident=[A]) as host:
        anyio.run(ask_all, host)
        eventually(host.is_idle)
    served = [reply for reply in replies if reply.startswith(b"HTTP/1.1 200 ")]
    refused = [
        reply
        for reply in replies
        if reply.startswith(b"HTTP/1.1 503 ") and re.search(rb"\r\nretry-after: \d+\r", reply)
    ]
    assert len(served) + len(refused) == 1000
    assert len(served) >= 32
    assert set(health) == {200}


# ---------------------------------------------------------------------------------------------- clients that leave


@pytest.mark.parametrize(
    ("phase", "stream", "leave"),
    [
        ("sending", False, "close"),
        ("sending", False, "reset"),
        ("prefill", True, "reset"),
        ("prefill", False, "close"),
        ("queued", True, "close"),
        ("queued", False, "reset"),
        ("speaking", False, "close"),
        ("speaking", True, "close"),
        ("speaking", True, "reset"),
        ("reading", True, "reset"),
    ],
)
def test_a_client_that_leaves_at_any_point_frees_its_seat(phase: str, leave: str, *, stream: bool) -> None:
    script = ScriptedModel(max_in_flight=1)
    match phase:
        case "prefill":
            script.may_prepare = anyio.Event()
        case "reading":
            script.reply = ("word ",) * 1_000_000
        case _:
            script.may_speak = anyio.Event()
    others = 1 if phase == "queued" else 0
    with listening_host({A: script}, resident=[A]) as host, host.connect() as first, host.connect() as client:
        if others:
            first.send(raw_chat(A))
            eventually(lambda: host.requests_under_way == 1)
        request = raw_chat(A, stream=stream)
        client.send(request[:-1] if phase == "sending" else request)
        eventually(lambda: host.requests_under_way == others + 1)
        if phase == "reading":
            client.read_until(b"word")
        if leave == "reset":
            client.reset()
        else:
            client.sock.close()
        eventually(lambda: host.requests_under_way == others)
        first.sock.close()
        eventually(host.is_idle)


# ----------------------------------------------------------------------------------------------------- half-closing


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_only_stops_sending_gets_its_whole_answer(*, stream: bool) -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    limits = ConnectionLimits(head_s=0.3, half_closed_check_s=0.02)
    with listening_host({A: script}, resident=[A], limits=limits) as host, host.connect() as client:
        client.send(raw_chat(A, stream=stream))
        client.sock.shutdown(socket.SHUT_WR)
        outlast_a_head(host)  # so it has been looked after a few times
        assert script.may_speak is not None
        host.set(script.may_speak)
        assert client.head().status == 200
        assert b"world" in client.rest()


def test_an_answer_to_a_half_closed_connection_may_take_long() -> None:
    script = ScriptedModel(reply=("word " * 1000,) * 2000)
    limits = ConnectionLimits(half_closed_check_s=0.001)
    with listening_host({A: script}, resident=[A], limits=limits) as host, host.connect(receive_buffer=4096) as client:
        client.send(raw_chat(A))
        client.sock.shutdown(socket.SHUT_WR)
        expected = int(client.head().headers["content-length"])
        host.get("/health")  # so it has been looked after in the middle of the answer
        assert len(client.rest()) == expected


# ------------------------------------------------------------------------------------------------- ahead of answers


@pytest.mark.parametrize(("ahead", "in_one_piece"), [(raw_chat(A), True), (b"x" * 100_000, False)])
def test_bytes_sent_ahead_of_an_answer_do_not_change_it_and_are_not_answered(
    ahead: bytes, *, in_one_piece: bool
) -> None:
    script = ScriptedModel(may_speak=anyio.Event())
    with listening_host({A: script}, resident=[A], limits=LIMITS) as host, host.connect() as client:
        if in_one_piece:
            client.send(raw_chat(A, stream=True) + ahead)
        else:
            client.send(raw_chat(A, stream=True))
            client.read_until(b"assistant")
            client.send(ahead)
        outlast_a_head(host)
        assert script.may_speak is not None
        host.set(script.may_speak)
        answer = client.rest()
        assert answer.count(b"HTTP/1.1") == (1 if in_one_piece else 0)
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert len(host.scripted.harness.requests) == 1


def test_a_client_that_still_sends_when_its_answer_ends_gets_the_whole_answer(host: ListeningHost) -> None:
    with host.connect() as client:
        client.send(2 * GET_HEALTH)
        assert client.reply().headers["connection"] == "close"
        assert client.is_closed()
        for _ in range(2):  # the first would be answered by a reset, and the second raise
            client.send(GET_HEALTH)


# -------------------------------------------------------------------------------------------------- what is no HTTP


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64, CHUNKED_CHAT + b"zz\r\n"]
)
def test_bytes_that_are_not_http_are_a_400_in_our_envelope(host: ListeningHost, data: bytes) -> None:
    with host.connect() as client:
        client.send(data)
        reply = client.reply()
        assert (reply.status, reply.error()["code"]) == (400, "malformed_http")
        assert client.is_closed()
    eventually(host.is_idle)
    assert host.get("/health").status == 200


# ---------------------------------------------------------------------------------------------------------- HTTP/1.0


def old(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0")


def test_a_stream_for_http_1_0_has_no_chunks_and_ends_with_its_connection(host: ListeningHost) -> None:
    with host.connect() as client:
        client.send(old(raw_chat(A, stream=True)).replace(b"host: x", b"connection: keep-alive"))
        head = client.head()
        body = client.rest()
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert head.headers["connection"] == "close"
    assert not head.headers.keys() & {"transfer-encoding", "content-length"}
    events = body.split(b"\n\n")
    assert all(event.startswith((b"data: ", b": ")) for event in events[:-1])
    assert events[-2:] == [b"data: [DONE]", b""]
    eventually(host.is_idle)


@pytest.mark.parametrize("path", ["/health", "/models", "/nothing"])
def test_a_whole_answer_for_http_1_0_has_its_length(host: ListeningHost, path: str) -> None:
    with host.connect() as client:
        client.send(old(f"GET {path} HTTP/1.1\r\n\r\n".encode()))
        reply = client.reply()
        assert client.is_closed()
    assert json.loads(reply.body) is not None
    assert "transfer-encoding" not in reply.headers


def test_a_whole_chat_for_http_1_0_has_its_length(host: ListeningHost) -> None:
    with host.connect() as client:
        client.send(old(raw_chat(A)))
        reply = client.reply()
        assert client.is_closed()
    assert json.loads(reply.body)["choices"]


@pytest.mark.parametrize("headers", [b"x: " + b"a" * (1 << 20), b"x: y\r\n" * 50_000])
def test_a_head_beyond_the_bound_is_a_400_that_arrives(host: ListeningHost, headers: bytes) -> None:
    with host.connect() as client:
        client.send(b"GET /health HTTP/1.1\r\n" + headers)
        assert client.reply().status == 400
        assert client.is_closed()


def test_head_has_the_headers_of_get_and_no_body(host: ListeningHost) -> None:
    with host.connect() as client:
        client.send(b"HEAD /models HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n\r\n")
        head = client.head()
        client.send(b"GET /models HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\n\r\n")
        get = client.reply()
    assert (head.status, get.status) == (200, 200)
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}
    assert get.body


def test_head_of_a_stream_does_not_follow_it(host: ListeningHost) -> None:
    with host.connect() as client:
        client.send(b"HEAD /models/loading/events HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.head().headers["content-type"] == "text/event-stream; charset=utf-8"
        eventually(host.is_idle)


def test_an_upgrade_is_not_taken_and_the_request_is_answered(host: ListeningHost) -> None:
    asking = b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEA\r\nupgrade: h2c\r\nhost"
    with host.connect() as client:
        for _ in range(2):
            client.send(raw_chat(A).replace(b"host", asking))
            reply = client.reply()
            assert (reply.status, "connection" in reply.headers) == (200, False)
            client.send(GET_HEALTH.replace(b"host", asking))
            assert client.reply().status == 200


# ------------------------------------------------------------------------------------------------- who does not read


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_does_not_read_is_given_up(*, stream: bool) -> None:
    script = ScriptedModel(reply=("word " * 1000,) * 2000)
    with (
        listening_host({A: script}, resident=[A], limits=ConnectionLimits(taking_s=0.5)) as host,
        host.connect(receive_buffer=4096) as client,
    ):
        client.send(raw_chat(A, stream=stream))
        client.sock.recv(1)
        eventually(lambda: host.open_connections == 0)
        eventually(host.is_idle)


@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"], ids=["open", "closing"])
def test_a_client_that_reads_a_few_bytes_at_a_time_is_given_up(close: bytes) -> None:
    script = ScriptedModel(reply=("word " * 1000,) * 4000)
    with (
        listening_host({A: script}, resident=[A], limits=ConnectionLimits(taking_s=1)) as host,
        host.connect(receive_buffer=4096) as client,
    ):
        client.send(raw_chat(A).replace(b"host", close + b"host"))
        expected = int(client.head().headers["content-length"])
        taken = 0
        with suppress(ConnectionResetError):
            while drop := client.sock.recv(2048):
                taken += len(drop)
                host.get("/health")  # so it is no stream of drops
        assert taken < expected
        eventually(lambda: host.open_connections == 0)


def test_the_kernel_probes_for_clients_that_have_vanished() -> None:
    # What it then does cannot be staged on loopback, where somebody always answers.
    with listening_host(limits=ConnectionLimits(taking_s=12)) as host, host.connect():
        eventually(lambda: host.open_connections == 1)
        assert host.socket_option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000
        assert host.socket_option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert host.socket_option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 6
