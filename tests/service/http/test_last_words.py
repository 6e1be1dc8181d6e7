import pytest

from neuron_lib.errors import NeuronError, ShuttingDown
from neuron_service.http.cap import ConnectionCap
from neuron_service.http.last_words import MalformedHttp, RequestTimeout, openai_refusal, to_bytes

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
    answer = openai_refusal(error, "/v1/chat/completions")
    assert (answer.status, answer.code, answer.type, answer.retry_after) == expected


def test_a_refusal_is_a_whole_response_and_the_last_one() -> None:
    answer = openai_refusal(RequestTimeout("late"), "")
    assert to_bytes(answer, [DATE]) == (
        b"HTTP/1.1 408 Request Timeout\r\ndate: Mon, 01 Jan 2024 00:00:00 GMT\r\ncontent-type: application/json\r\n"
        b"content-length: 96\r\nconnection: close\r\n\r\n"
        b'{"error":{"message":"late","type":"invalid_request_error","code":"request_timeout","param":null}}'
    ).replace(b"96", b"%d" % len(answer.body))


def test_a_refusal_that_will_pass_says_when() -> None:
    assert b"\r\nretry-after: 15\r\n\r\n" in to_bytes(openai_refusal(ShuttingDown(), ""), [])
