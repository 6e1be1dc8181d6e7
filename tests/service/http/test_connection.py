"""A connection between a client and an application in memory: uvicorn's real protocol and parser, no socket, and time
that passes when the test says so. What needs a kernel is in `tests/service/test_connections.py`.
"""

import asyncio
import logging
from typing import Any

import pytest

from neuron_lib.errors import NeuronError
from neuron_lib.wire.http_errors import ErrorAnswer
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.limits import ConnectionLimits
from neuron_service.refusals import render
from tests.fakes.memory_connection import ManualLoop, MemoryClient, memory_connection

LIMITS = ConnectionLimits(head_s=10, body_s=30, idle_s=150, last_words_s=2, taking_s=60, head_bytes=1000)
GET = b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def post(
    path: str, body: bytes = b"{}", *, version: str = "1.1", headers: bytes = b"", size: int | None = None
) -> bytes:
    head = f"POST {path} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(body) if size is None else size}\r\n"
    return head.encode() + headers + b"\r\n" + body


def is_refused(client: MemoryClient, status: int, code: str) -> bool:
    """Whether the client was refused just now, and the connection has ended with that."""
    reply = client.reply()
    assert reply.headers["connection"] == "close"
    assert client.is_ended
    return (reply.status, reply.body["error"]["code"]) == (status, code)


# --------------------------------------------------------------------------------------------------------- main path


def test_requests_are_answered_one_after_the_other() -> None:
    with memory_connection(limits=LIMITS) as client:
        for number in range(3):
            client.send(post("/a", b"x" * number))
            reply = client.reply()
            assert (reply.status, reply.body) == (200, {"path": "/a", "size": number})
            assert "connection" not in reply.headers
        assert client.is_open


@pytest.mark.parametrize(
    ("version", "piece", "end"), [("1.1", b"6\r\ndirect\r\n", b"3\r\ntwo\r\n0\r\n\r\n"), ("1.0", b"direct", b"two")]
)
def test_a_piece_of_an_answer_that_is_written_directly_looks_like_one_that_is_sent(
    version: str, piece: bytes, end: bytes
) -> None:
    with memory_connection() as client:
        client.send(f"GET /stream HTTP/{version}\r\n\r\n".encode())
        client.take()
        assert client.app.write(b"direct")
        assert client.take() == piece
        client.let_answer()
        assert client.take() == end


def test_who_writes_directly_is_told_whether_the_client_reads() -> None:
    with memory_connection() as client:
        client.send(b"GET /stream HTTP/1.1\r\n\r\n")
        client.connection.pause_writing()
        assert not client.app.write(b"a")
        client.connection.resume_writing()
        assert client.app.write(b"b")
        assert client.take().endswith(b"1\r\na\r\n1\r\nb\r\n")


def test_nothing_is_written_directly_to_a_client_that_has_gone() -> None:
    with memory_connection() as client:
        client.send(b"GET /stream HTTP/1.1\r\n\r\n")
        client.take()
        client.transport.lose()
        client.loop.settle()
        assert not client.app.write(b"a")
        assert client.take() == b""


@pytest.mark.parametrize("size", [1, 7])
def test_a_request_may_come_in_any_pieces(size: int) -> None:
    request = post("/a", b'{"a": 1}') + b"\r\n" + GET
    with memory_connection(limits=LIMITS) as client:
        for start in range(0, len(request), size):
            client.send(request[start : start + size])
        assert [client.reply().body["size"] for _ in range(2)] == [8, 0]


@pytest.mark.parametrize("size", [1, 1000], ids=["drops", "pieces"])
def test_a_body_in_chunks_is_read_and_its_trailers_are_ignored(size: int) -> None:
    body = b"x" * 5000
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    with memory_connection(limits=LIMITS) as client:
        for _ in range(2):
            client.send(CHUNKED + chunks + b"0\r\nx: y\r\nexpect: 100-continue\r\n\r\n")
            assert client.reply().body == {"path": "/a", "size": 5000}


def test_trailers_are_no_headers() -> None:
    with memory_connection() as client:
        client.send(CHUNKED + b"2\r\n{}\r\n0\r\n")
        client.send(b"x: y\r\n\r\n")
        assert client.reply().status == 200
        assert [name for name, _ in client.app.headers] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b" chunked "])
def test_plain_chunks_are_read_however_they_are_spelled(coding: bytes) -> None:
    with memory_connection() as client:
        client.send(CHUNKED.replace(b" chunked", coding) + b"2\r\n{}\r\n0\r\n\r\n")
        assert client.reply().body["size"] == 2


@pytest.mark.parametrize("path", ["/a", "/early"])
def test_a_trailer_may_say_that_the_request_was_the_last(path: str) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(CHUNKED.replace(b"/a", path.encode()) + b"2\r\n{}\r\n")
        client.send(b"0\r\nconnection: close\r\n\r\n")
        client.advance(0)
        assert client.reply().status == 200
        assert client.is_closed


def test_an_empty_line_behind_a_body_is_no_request() -> None:
    with memory_connection() as client:
        client.send(post("/wait"))
        client.send(b"\r\n")
        client.let_answer()
        reply = client.reply()
        assert (reply.status, "connection" in reply.headers) == (200, False)
        client.send(b"\r\n" + GET)
        assert client.reply().status == 200


@pytest.mark.parametrize(("version", "interim"), [("1.0", b""), ("1.1", b"HTTP/1.1 100 Continue\r\n\r\n")])
def test_only_a_client_that_knows_interim_responses_gets_one(version: str, interim: bytes) -> None:
    with memory_connection() as client:
        request = post("/a", version=version, headers=b"expect: 100-continue\r\n")
        client.send(request[:-2])
        client.send(request[-2:])
        assert client.take().startswith(interim + b"HTTP/1.1 200 OK\r\n")


# --------------------------------------------------------------------------------------------------------- deadlines


def test_a_silent_connection_is_closed_without_an_answer() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.advance(9.9)
        assert client.is_open
        client.advance(0.1)
        assert (client.take(), client.is_closed) == (b"", True)


@pytest.mark.parametrize("start", [b"G", b"GET /health HTTP/1.1\r\nhost: x\r\n", b"\r\n"])
def test_a_head_that_does_not_end_is_a_408_and_the_end_of_the_connection(start: bytes) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(start)
        client.advance(10)
        assert is_refused(client, 408, "request_timeout")


def test_the_head_of_a_later_request_has_the_same_deadline() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(GET)
        assert client.reply().status == 200
        client.advance(100)
        client.send(b"GET")
        client.advance(9.9)
        assert client.is_open
        client.advance(0.1)
        assert is_refused(client, 408, "request_timeout")


@pytest.mark.parametrize("path", ["/a", "/wait"])
def test_a_body_that_does_not_end_is_a_408_and_its_application_is_told(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post(path, b"{", size=100))
        client.advance(29)
        assert client.take() == b""
        client.advance(1)
        reply = client.reply()
        assert reply.body["error"]["message"] == "the body of the request did not arrive within 30 s"
        assert (reply.status, client.app.hung_up) == (408, 1)
    (record,) = caplog.records
    assert (vars(record)["method"], vars(record)["path"], vars(record)["status"]) == ("POST", path, 408)


def test_no_second_answer_follows_an_early_one() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post("/early", b"", size=100))
        assert client.reply().status == 200
        assert client.is_open
        client.advance(30)
        assert client.is_ended


def test_an_early_answer_does_not_answer_the_next_request() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post("/early", b"", size=2))
        assert client.reply().status == 200
        client.send(b"{}GET")
        client.advance(10)
        assert is_refused(client, 408, "request_timeout")


@pytest.mark.parametrize("is_early", [False, True])
def test_a_connection_that_is_idle_for_too_long_is_closed(*, is_early: bool) -> None:
    with memory_connection(limits=LIMITS) as client:
        if is_early:
            client.send(post("/early", b"", size=2))
            client.send(b"{}")
        else:
            client.send(GET)
        assert client.reply().status == 200
        client.advance(149)
        assert client.is_open
        client.advance(1)
        assert client.is_closed


def test_the_idle_time_is_over_with_the_first_byte_of_a_request() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(GET)
        client.advance(149)
        client.take()
        client.send(b"GET")
        client.advance(9)
        client.send(GET[3:])
        assert client.reply().status == 200


def test_no_deadline_runs_while_an_answer_is_made() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post("/wait"))
        client.advance(1e6)
        client.let_answer()
        assert client.reply().status == 200
        assert client.is_open


def test_a_deadline_that_is_nearer_than_the_last_one_is_kept_too() -> None:
    limits = ConnectionLimits(head_s=1, body_s=3600)
    with memory_connection(limits=limits) as client:
        client.send(post("/a", b"", size=2))
        client.advance(100)
        client.send(b"{}")
        assert client.reply().status == 200
        client.send(b"GET")
        client.advance(1)
        assert is_refused(client, 408, "request_timeout")


def test_many_requests_need_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    set_for: list[float] = []
    call_at = ManualLoop.call_at

    def count(loop: ManualLoop, when: float, callback: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        if callback.__qualname__.startswith("Alarm."):
            set_for.append(when)
        return call_at(loop, when, callback, *args, **kwargs)

    monkeypatch.setattr(ManualLoop, "call_at", count)
    with memory_connection(limits=LIMITS) as client:
        for _ in range(20):
            client.send(post("/a")[:-1])
            client.advance(0.4)
            client.send(b"}")
            client.advance(0.4)
            assert client.reply().status == 200
    assert len(set_for) == 2  # the first is over after ten seconds


def test_a_client_that_stays_connected_after_the_last_answer_is_not_waited_for() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(b"GET")
        client.advance(10)
        assert is_refused(client, 408, "request_timeout")
        client.advance(1.9)
        assert not client.is_closed
        client.send(b"more of it")
        client.advance(0.1)
        assert client.is_closed


def test_a_client_that_does_not_read_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with memory_connection(limits=LIMITS) as client:
        client.send(post("/wait"))
        client.connection.pause_writing()
        client.advance(59)
        client.connection.resume_writing()
        client.advance(59)
        assert client.is_open
        client.connection.pause_writing()
        client.advance(60)
        assert client.transport.is_aborted
    assert [record.message for record in caplog.records] == ["client stopped reading, its connection was given up"]


# ----------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("start", [b"GET", post("/a", b"", size=2), post("/a")[:-1], CHUNKED])
def test_a_client_that_still_sends_when_the_host_ends_gets_an_answer(start: bytes) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(start)
        client.connection.shutdown()
        client.loop.settle()
        assert client.transport.written.count(b"\r\nretry-after: 15\r\n") == 1
        assert is_refused(client, 503, "shutting_down")
        client.advance(0.5)  # the host's end does not wait for the two seconds of other last words
        assert client.is_closed


def test_a_connection_without_a_request_is_closed_when_the_host_ends() -> None:
    with memory_connection() as client:
        client.connection.shutdown()
        assert (client.take(), client.is_closed) == (b"", True)


def test_an_answer_that_is_under_way_when_the_host_ends_is_the_last() -> None:
    with memory_connection() as client:
        client.send(post("/wait"))
        client.connection.shutdown()
        client.let_answer()
        assert client.reply().headers["connection"] == "close"
        assert client.is_closed


# ------------------------------------------------------------------------------------------------------ many clients


def test_beyond_the_limit_questions_are_answered_and_work_is_refused() -> None:
    for request, status in ((GET, 200), (post("/a"), 503)):
        with memory_connection(cap=ConnectionCap(0, spare=8)) as client:
            client.send(request)
            reply = client.reply()
            assert (reply.status, reply.headers["connection"]) == (status, "close")
            assert client.is_ended


def test_beyond_the_spare_places_connections_are_closed_at_once() -> None:
    with memory_connection(cap=ConnectionCap(0, spare=0)) as client:
        assert client.reply().status == 503
        assert client.is_closed
        assert client.app.requests == []


def test_a_refusal_is_the_last_answer_even_if_more_bytes_follow() -> None:
    with memory_connection(cap=ConnectionCap(0, spare=8)) as client:
        client.send(CHUNKED + b"no chunk")
        assert client.reply().status == 503
        client.send(b"more of it")
        assert client.is_ended
        assert client.app.requests == []


# ------------------------------------------------------------------------------------------------------ half-closing


@pytest.mark.parametrize("path", ["/wait", "/stream"])
def test_a_client_that_only_stops_sending_gets_its_answer_and_no_other_request(path: str) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post(path))
        begun = client.take()
        client.stop_sending()
        # What is sent finds out whether the client still exists. In the middle of an answer nothing may be.
        assert client.take() == (b"" if begun else b"HTTP/1.1 100 Continue\r\n\r\n")
        for _ in range(10):
            client.advance(0.1)
        assert client.is_open
        client.let_answer()
        assert (b"connection: close" in client.take()) is not bool(begun)
        assert client.is_closed


@pytest.mark.parametrize("path", ["/wait", "/stream"])
def test_a_client_that_has_left_is_noticed(path: str) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post(path))
        client.stop_sending()
        client.advance(0.1)
        assert client.is_open
        client.vanish()
        client.advance(0.1)
        assert client.transport.is_aborted


def test_a_client_of_http_1_0_counts_as_gone_when_it_stops_sending() -> None:
    with memory_connection() as client:
        client.send(post("/wait", version="1.0"))
        client.stop_sending()
        assert (client.take(), client.is_closed) == (b"", True)


@pytest.mark.parametrize("sent", [b"", b"GET", post("/wait")[:-1]])
def test_half_a_request_is_dropped_when_the_client_stops_sending(sent: bytes) -> None:
    with memory_connection() as client:
        client.send(sent)
        client.stop_sending()
        assert (client.take(), client.is_closed) == (b"", True)
        assert client.app.hung_up == len(client.app.requests)


# -------------------------------------------------------------------------------------------------- ahead of answers


@pytest.mark.parametrize("ahead", [post("/a"), GET, b"GET", b"\x16\x03\x01 garbage", b"x" * 100_000])
@pytest.mark.parametrize("in_one_piece", [True, False])
@pytest.mark.parametrize("path", ["/wait", "/stream"])
def test_bytes_sent_ahead_of_an_answer_do_not_change_it_and_are_not_answered(
    path: str, ahead: bytes, *, in_one_piece: bool
) -> None:
    with memory_connection(limits=LIMITS) as client:
        if in_one_piece:
            client.send(post(path) + ahead)
        else:
            client.send(post(path))
            client.send(ahead)
        client.send(ahead)
        client.advance(1000)
        client.let_answer()
        answer = client.take()
        assert (answer.count(b"HTTP/1.1"), answer.count(b"HTTP/1.1 200 OK")) == (1, 1)
        assert answer.endswith(b"\r\n0\r\n\r\n" if path == "/stream" else b"}")
        assert client.is_ended
        assert client.app.requests == [f"POST {path}"]
        client.advance(2)  # a client that never stops sending is not waited for
        assert client.is_closed


# -------------------------------------------------------------------------------------------------- what is not HTTP


BAD = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a chunk that is none": CHUNKED + b"zz\r\n",
    "a chunk that is none, to be asked for": CHUNKED.replace(b"host: x", b"expect: 100-continue") + b"zz\r\n",
    "a negative length": b"GET /health HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    "two lengths": b"POST /models/load HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    "a length and chunks": (
        b"POST /models/load HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x"
    ),
    "an encoding that is none": b"POST /models/load HTTP/1.1\r\ntransfer-encoding: identity, x\r\n\r\n0\r\n\r\n",
    "a name with a blank": b"GET /health HTTP/1.1\r\nx y: z\r\n\r\n",
    "a value with NUL": b"GET /health HTTP/1.1\r\nx: \0\r\n\r\n",
    "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n",
    "a bare line feed": b"GET /health HTTP/1.1\nx: y\n\n",
    "RTSP": b"GET /health RTSP/1.0\r\n\r\n",
    "RTSP with a method of its own": b"\r\nDESCRIBE rtsp://x/y RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "ICE": b"SOURCE /health ICE/1.0\r\n\r\n",
    "prose": b"hello there, is anybody in?\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a compressed body": CHUNKED.replace(b": chunked", b": gzip, chunked"),
    "a body compressed in two headers": CHUNKED.replace(b": chunked", b": gzip\r\ntransfer-encoding: chunked"),
    "chunks in chunks": CHUNKED.replace(b": chunked", b": chunked, chunked"),
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in BAD.items()])
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["drop by drop", "at once"])
def test_bytes_that_are_not_http_are_a_400_in_our_envelope(
    data: bytes, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with memory_connection() as client:
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
        assert is_refused(client, 400, "malformed_http")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_protocol_is_recognized_between_two_requests_and_in_the_middle_of_its_name() -> None:
    with memory_connection() as client:
        client.send(GET)
        assert client.reply().status == 200
        client.send(b"GET /health RT")
        client.send(b"SP/1.0\r\n\r\n")
        assert is_refused(client, 400, "malformed_http")


@pytest.mark.parametrize("headers", [b"x: " + b"a" * 2000, b"x: y\r\n" * 300])
def test_a_head_beyond_the_bound_is_a_400(headers: bytes) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(b"GET /a HTTP/1.1\r\n")
        client.send(headers)
        assert is_refused(client, 400, "malformed_http")


@pytest.mark.parametrize("piece", [b"a: b\r\n", b"a: " + b"b" * 300, b"0" * 300])
def test_bytes_after_a_body_or_between_its_pieces_are_bounded(piece: bytes) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(CHUNKED + b"2\r\n{}\r\n" + (b"" if piece.startswith(b"0") else b"0\r\n"))
        for _ in range(2000 // len(piece)):
            client.send(piece)
        assert is_refused(client, 400, "malformed_http")
        assert client.app.hung_up == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET", 503),
        (post("/a", b"", size=2, headers=b"x-request-id: mine\r\n"), 503),
        (CHUNKED.replace(b": chunked", b": gzip\r\nx-request-id: mine"), 400),
    ],
)
def test_what_a_connection_refuses_by_itself_has_an_id_and_one_line(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(sent)
        client.connection.shutdown()
        client.loop.settle()
        reply = client.reply()
    assert reply.status == status
    request_id = reply.headers["x-request-id"]
    assert request_id == "mine" if b"mine" in sent else len(request_id) == 32
    assert [vars(record)["request_id"] for record in caplog.records] == [request_id]


def test_beyond_the_limit_of_connections_a_refusal_has_an_id_too() -> None:
    for spare, sent in ((8, post("/b", b"", size=2)), (0, b"")):
        with memory_connection(limits=LIMITS, cap=ConnectionCap(0, spare=spare)) as client:
            client.send(sent)
            assert len(client.reply().headers["x-request-id"]) == 32


def test_a_refusal_has_the_shape_of_its_path_if_the_path_is_known(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def refusals(error: NeuronError, path: str) -> ErrorAnswer:
        asked.append(path)
        return render(error, path)

    for sent in (b"GET", post("/a%20b?c=d", b"", size=2), CHUNKED.replace(b": chunked", b": gzip"), b"OPTIONS *"):
        with memory_connection(limits=LIMITS, refusals=refusals) as client:
            client.send(sent)
            client.connection.shutdown()
    with memory_connection(limits=LIMITS, refusals=refusals, cap=ConnectionCap(0, spare=8)) as client:
        client.send(post("/b", b"", size=2))
    assert asked == ["", "/a b", "/a", "", "/b"]
    assert [vars(record)["path"] for record in caplog.records if "request refused" in record.message] == [
        "-", "/a b", "/a", "-",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- HTTP/1.0


@pytest.mark.parametrize("keep_alive", [b"", b"connection: keep-alive\r\n"])
def test_a_stream_for_http_1_0_has_no_chunks_and_ends_with_its_connection(keep_alive: bytes) -> None:
    with memory_connection() as client:
        client.send(post("/stream", version="1.0", headers=keep_alive))
        client.let_answer()
        assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nonetwo"
        assert client.is_closed


def test_a_stream_for_http_1_1_is_in_chunks_and_the_connection_stays() -> None:
    with memory_connection() as client:
        client.send(post("/stream"))
        client.let_answer()
        assert client.take() == (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"
            b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        )
        assert client.is_open


def test_a_whole_answer_for_http_1_0_has_its_length() -> None:
    with memory_connection() as client:
        client.send(post("/a", version="1.0"))
        reply = client.reply()
        assert (reply.body["size"], reply.headers["connection"]) == (2, "close")
        assert "transfer-encoding" not in reply.headers
        assert client.is_closed


def test_an_early_answer_for_http_1_0_is_the_last_and_its_connection_stays_open_for_a_while() -> None:
    with memory_connection(limits=LIMITS) as client:
        client.send(post("/early", b"", version="1.0", size=9))
        assert client.reply().status == 200
        assert client.transport.has_sent_eof
        assert not client.is_closed
        client.send(b"x")
        client.advance(2)
        assert client.is_closed


# ----------------------------------------------------------------------------------------------------------- upgrade


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_upgrade_is_not_taken_and_the_request_is_answered(upgrade: bytes, *, at_once: bool) -> None:
    asking = b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAEA\r\nupgrade: " + upgrade + b"\r\n"
    with memory_connection() as client:
        for _ in range(2):
            request = post("/a", b"x" * 20, headers=asking)
            if at_once:
                client.send(request)
            else:
                client.send(request[:-10])
                client.send(request[-10:])
            reply = client.reply()
            assert (reply.body["size"], "connection" in reply.headers) == (20, False)
            client.send(GET.replace(b"host: x\r\n", asking))
            assert client.reply().status == 200


def test_a_thousand_upgrades_in_one_read_are_handled_like_one(caplog: pytest.LogCaptureFixture) -> None:
    with memory_connection() as client:
        client.send(1000 * GET.replace(b"host: x", b"connection: upgrade\r\nupgrade: h2c"))
        assert client.reply().headers["connection"] == "close"
        assert client.app.requests == ["GET /a"]
    assert not caplog.records


@pytest.mark.parametrize("ahead", [b"", GET, b"garbage"])
def test_a_request_that_asks_for_an_upgrade_and_an_end_gets_the_end(ahead: bytes) -> None:
    with memory_connection() as client:
        client.send(GET.replace(b"host: x", b"connection: upgrade, close\r\nupgrade: h2c") + ahead)
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert client.is_ended
