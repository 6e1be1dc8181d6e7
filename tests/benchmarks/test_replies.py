"""What a load generator logged becomes the numbers that are reported."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replies import BenchmarkError, Reply, bare_numbers, numbers, parse_reply, percentile

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def event(text: str | None = None, *, finish_reason: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": usage}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


STREAM = (
    event("Once"),
    event(" upon"),
    event(finish_reason="length"),
    event(usage={"completion_tokens": 2, "prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}),
    b"data: [DONE]\n\n",
)


def chunked(*pieces: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + body


def reply(*arrivals_s: float, sent_s: float = 0.0, tokens: int | None = None) -> Reply:
    return Reply(
        sent_s=sent_s,
        arrivals_s=arrivals_s,
        text="",
        completion_tokens=len(arrivals_s) if tokens is None else tokens,
        prompt_tokens=10,
        cached_tokens=0,
    )


def test_a_reply_has_the_text_the_usage_and_the_times_of_its_text() -> None:
    arrivals = [(float(second), piece) for second, piece in enumerate((HEAD + b"\r\n", *STREAM))]
    parsed = parse_reply(0.5, [*arrivals, (9.0, b"")], max_tokens=2)
    assert parsed == Reply(
        sent_s=0.5,
        arrivals_s=(1.0, 2.0),
        text="Once upon",
        completion_tokens=2,
        prompt_tokens=9,
        cached_tokens=4,
    )
    assert parsed.first_token_s == 0.5


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_a_reply_reads_the_same_however_the_network_cuts_it(sizes: list[int]) -> None:
    data, arrivals = chunked(*STREAM), []
    for size in sizes:
        arrivals.append((1.0, data[:size]))
        data = data[size:]
    arrivals.append((1.0, data))
    parsed = parse_reply(0.0, arrivals, max_tokens=2)
    assert (parsed.text, parsed.completion_tokens, parsed.arrivals_s) == ("Once upon", 2, (1.0, 1.0))


def test_an_event_that_spans_two_chunks_arrives_with_the_second() -> None:
    whole = event("Once", finish_reason="stop")
    first, second = chunked(whole[:10], whole[10:]).split(whole[10:20])
    parsed = parse_reply(0.0, [(1.0, first), (2.0, whole[10:20] + second)], max_tokens=2)
    assert parsed.arrivals_s == (2.0,)


@pytest.mark.parametrize(("finish_reason", "tokens"), [("length", 7), ("stop", 2)])
def test_without_usage_a_reply_cut_at_its_limit_has_that_many_tokens_and_any_other_one_for_each_event(
    finish_reason: str, tokens: int
) -> None:
    stream = chunked(event("Once"), event(" upon"), event(finish_reason=finish_reason))
    assert parse_reply(0.0, [(1.0, stream)], max_tokens=7).completion_tokens == tokens


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "closed connection"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nloading", "503"),
        (chunked(event("Once")), "before its reply"),
        (chunked(b'data: {"error": {"message": "no cells"}}\n\n'), "no cells"),
    ],
)
def test_a_reply_without_its_end_is_no_number(data: bytes, problem: str) -> None:
    with pytest.raises(BenchmarkError, match=problem):
        parse_reply(0.0, [(1.0, data)], max_tokens=2)


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [([5.0], 0.99, 5.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([1.0, 2.0], 1.0, 2.0)],
)
def test_a_percentile_is_one_of_the_values(values: list[float], fraction: float, expected: float) -> None:
    assert percentile(values, fraction) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_at_least_the_fraction_lies_at_or_below_its_percentile(values: list[float], fraction: float) -> None:
    found = percentile(values, fraction)
    assert sum(value <= found for value in values) >= fraction * len(values) * (1 - 1e-9)


def test_speed_is_all_tokens_over_the_time_from_the_first_request_to_the_last_text() -> None:
    seen = numbers([reply(1.0, 2.0, tokens=6), reply(2.0, 4.0, sent_s=1.0, tokens=6)], streams=1)
    assert (seen["tok_per_s"], seen["seconds"], seen["completion_tokens"]) == (3.0, 4.0, 12)
    assert (seen["first_token_p50_ms"], seen["first_token_max_ms"]) == (1000.0, 1000.0)
    assert (seen["gap_p50_ms"], seen["gap_max_ms"]) == (1000.0, 2000.0)


def test_decode_speed_counts_only_while_all_streams_receive_text() -> None:
    early, late = reply(1.0, 2.0, 3.0, 4.0), reply(2.0, 3.0, 4.0, 5.0)
    # From 2 s to 4 s: two events of each.
    assert numbers([early, late], streams=2)["decode_tok_per_s"] == 2.0


def test_an_event_of_several_tokens_counts_as_many_in_the_decode_speed() -> None:
    # The first has one token, the other two share eight.
    assert numbers([reply(1.0, 2.0, 3.0, tokens=9)], streams=1)["decode_tok_per_s"] == 4.0


@pytest.mark.parametrize(
    "replies",
    [
        pytest.param([reply(1.0, 2.0), reply(3.0, 4.0)], id="one after another"),
        pytest.param([reply(1.0, 2.0)] * 3, id="more requests than streams"),
    ],
)
def test_there_is_no_decode_speed_of_replies_that_were_not_all_running(replies: list[Reply]) -> None:
    assert numbers(replies, streams=2)["decode_tok_per_s"] is None


def bare_output(**changes: object) -> str:
    line = {"pl": 8, "tg": 32, "t_pp": 4.0, "t_tg": 2.0, "speed_pp": 1200.0, "speed_tg": 128.0}
    return "warming up\n" + json.dumps(line | changes) + "\n"


@pytest.mark.parametrize(("prompts_read", "seconds"), [(3, 18.0), (1, 10.0)])
def test_the_bare_limit_reads_a_shared_prompt_once_and_other_prompts_in_every_wave(
    prompts_read: int, seconds: float
) -> None:
    seen = bare_numbers(bare_output(), requests=24, prompts_read=prompts_read)
    assert (seen["seconds"], seen["completion_tokens"]) == (seconds, 768)
    assert (seen["tok_per_s"], seen["decode_tok_per_s"]) == (round(768 / seconds, 1), 128.0)


def test_a_bare_limit_that_printed_nothing_is_no_number() -> None:
    with pytest.raises(BenchmarkError, match="out of memory"):
        bare_numbers("out of memory\n", requests=1, prompts_read=1)
