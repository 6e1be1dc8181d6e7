import pytest

from neuron_service.http.framing import RequestLine, fault_of_head, without_upgrade

UNKNOWN_LINE = RequestLine()


def line(*pieces: bytes) -> RequestLine:
    line = RequestLine()
    for piece in pieces:
        line.feed(piece)
    return line


# ------------------------------------------------------------------------------------------------------ request line


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((), False),
        ((b"GET / HTTP/1.1\r\n",), False),
        ((b"GET / HTTP/1.1\n",), False),
        ((b"GET / RTSP/1.0\r\n",), True),
        ((b"\r\nDESCRIBE rtsp://x/y RTSP/1.0\r\nCSeq: 1\r\n\r\n",), True),
        ((b"SOURCE / ICE/1.0\r\n",), True),
        ((b"GET / RT", b"SP/1.0\r\n"), True),
        ((b"\r", b"\n", b"GET", b" / HTTP/1.1\r\n", b"x: RTSP/1.0\r\n"), False),
        ((b"GET /RTSP/1.0 HTTP/1.0\r\n",), False),
    ],
)
def test_a_line_names_the_protocol_at_its_end(pieces: tuple[bytes, ...], *, expected: bool) -> None:
    assert line(*pieces).names_other_protocol is expected


# -------------------------------------------------------------------------------------------------------------- head


@pytest.mark.parametrize("version", ["0.9", "2.0", "9.9", ""])
def test_only_two_versions_are_spoken(version: str) -> None:
    assert fault_of_head(UNKNOWN_LINE, version=version, headers=()) == "Only HTTP/1.0 and HTTP/1.1 are spoken here."


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_another_protocol_is_not_spoken_whatever_its_version(version: str) -> None:
    assert fault_of_head(line(b"GET / HTTP/1.1\r\n"), version=version, headers=()) is None
    fault = fault_of_head(line(b"GET / RTSP/1.0\r\n"), version=version, headers=())
    assert fault == "Only HTTP/1.0 and HTTP/1.1 are spoken here."


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b" chunked "])
def test_plain_chunks_are_read_however_they_are_spelled_but_not_in_http_1_0(coding: bytes) -> None:
    headers = [(b"transfer-encoding", coding)]
    assert fault_of_head(UNKNOWN_LINE, version="1.1", headers=headers) is None
    assert fault_of_head(UNKNOWN_LINE, version="1.0", headers=headers) is not None


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([b"gzip, chunked"], "gzip, chunked"),
        ([b"gzip,chunked"], "gzip,chunked"),
        ([b"gzip", b"chunked"], "gzip,chunked"),
        ([b"chunked", b"chunked"], "chunked,chunked"),
        ([b"chunked, chunked"], "chunked, chunked"),
        ([b"deflate, chunked"], "deflate, chunked"),
        ([b"identity, x"], "identity, x"),
    ],
)
def test_a_body_that_is_encoded_for_the_transfer_in_another_way_is_refused(values: list[bytes], shown: str) -> None:
    headers = [(b"host", b"x"), *((b"transfer-encoding", value) for value in values)]
    fault = fault_of_head(UNKNOWN_LINE, version="1.1", headers=headers)
    assert fault == f"The body is sent as '{shown}', and only chunks of HTTP/1.1 are understood."


def test_a_coding_is_shown_clipped() -> None:
    fault = fault_of_head(UNKNOWN_LINE, version="1.1", headers=[(b"transfer-encoding", b"x" * 10_000)])
    assert fault is not None
    assert len(fault) < 1000


# ----------------------------------------------------------------------------------------------------------- upgrade


@pytest.mark.parametrize(
    ("connection", "kept"),
    [
        (b"Upgrade, HTTP2-Settings", b""),
        (b"upgrade, close", b"close"),
        (b"Close , Upgrade", b"close"),
        (b"upgrade", b""),
        (b"keep-alive, upgrade", b""),
    ],
)
def test_a_head_without_its_upgrade_is_otherwise_the_same(connection: bytes, kept: bytes) -> None:
    headers = [
        (b"host", b"x"), (b"connection", connection), (b"upgrade", b"h2c"), (b"http2-settings", b"AAEA"),
        (b"content-length", b"2"),
    ]  # fmt: skip
    assert without_upgrade(b"POST", b"/a?b=%20", "1.1", headers) == (
        b"POST /a?b=%20 HTTP/1.1\r\nhost: x\r\nconnection: " + kept + b"\r\nhttp2-settings: AAEA\r\n"
        b"content-length: 2\r\n\r\n"
    )
