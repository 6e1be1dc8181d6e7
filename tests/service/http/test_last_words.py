import pytest

from neuron_lib.errors import NeuronError, ShuttingDown
from neuron_lib.wire.http_errors import ErrorAnswer, MalformedHttp, RequestTimeout
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.last_words import to_bytes
from neuron_service.refusals import render

DATE = (b"date", b"Mon, 01 Jan 2024 00:00:00 GMT")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MalformedHttp("no"), (400, "malformed_http", "invalid_request_error", None)),
        (RequestTimeout("no"), (408, "request_timeout", "invalid_request_error", None)),
        (ShuttingDown(), (503, "shutting_down", "api_error", "15")),
        (ConnectionCap(1, spare=1).refusal(), (503, "rate_limit_exceeded", "rate_limit_error", "5")),
    ],
)
def test_each_refusal_has_its_status(error: NeuronError, expected: tuple[int, str, str, str | None]) -> None:
    answer = render(error, "/v1/chat/completions")
    assert (answer.status, answer.code, answer.type, dict(answer.headers).get("retry-after")) == expected


def test_a_refusal_is_a_whole_response_and_the_last_one() -> None:
    answer = render(RequestTimeout("late"), "")
    assert to_bytes(answer, [DATE]) == (
        b"HTTP/1.1 408 Request Timeout\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\ncontent-type: application/json\r\n"
        b"content-length: 96\r\nconnection: close\r\n\r\n"
        b'{"error":{"message":"late","type":"invalid_request_error","code":"request_timeout","param":null}}'
    ).replace(b"96", b"%d" % len(answer.body))


def test_a_temporary_refusal_has_retry_after() -> None:
    assert b"\r\nretry-after: 15\r\n\r\n" in to_bytes(render(ShuttingDown(), ""), [])


def test_a_status_that_http_does_not_define_has_no_phrase() -> None:
    answer = ErrorAnswer(status=529, headers=(), body=b"{}", type="overloaded_error", code=None)
    assert to_bytes(answer, []).startswith(b"HTTP/1.1 529 \r\n")
