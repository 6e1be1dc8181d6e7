"""Which spans a request has, by what is known at its end."""

from typing import Any

import pytest

from neuron_lib import EndedReply, FinishReason, ReplyOutcome, Usage
from neuron_lib.types import Principal
from neuron_service.exchange import Exchange, TraceParent
from neuron_service.spans import PlannedSpan, plan_spans

S = 1_000_000_000
TRACE = TraceParent(trace_id="0af7651916cd43dd8448eb211c80319c", parent_id="b7ad6b7169203331", is_sampled=True)


def reply(**changes: Any) -> EndedReply:
    fields: dict[str, Any] = {
        "model_id": "org/a",
        "outcome": ReplyOutcome.FINISHED,
        "error": None,
        "finish_reasons": (FinishReason.STOP,),
        "usage": Usage(prompt_tokens=30, completion_tokens=4, cached_tokens=10, prefill_ms=1000, decode_ms=2000),
        "retried": False,
        "principal": None,
        "queue_s": 1.0,
        "first_event_s": 2.5,
        "total_s": 5.0,
    }
    return EndedReply(**(fields | changes))


def exchange(**changes: Any) -> Exchange:
    fields: dict[str, Any] = {"request_id": "r", "method": "POST", "path": "/v1/chat/completions", "status": 200}
    return Exchange(**(fields | changes))


def planned(exchange: Exchange) -> PlannedSpan:
    """The span of a request of 10 seconds."""
    span = plan_spans(exchange, begin_ns=100 * S, end_ns=110 * S)
    assert span is not None
    return span


def test_a_reply_is_a_span_with_its_phases_one_after_the_other() -> None:
    span = planned(exchange(ended=reply(), principal=Principal("account", "key")))
    assert (span.name, span.begin_ns, span.end_ns, span.error) == ("POST /v1/chat/completions", 100 * S, 110 * S, "")
    assert [(child.name, child.begin_ns, child.end_ns) for child in span.children] == [
        ("queue", 105 * S, 106 * S),
        ("prefill", 106 * S, 107 * S),
        ("decode", 107 * S, 110 * S),
    ]
    assert span.attributes == {
        "http.request.method": "POST",
        "url.path": "/v1/chat/completions",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "enduser.pseudo.id": Principal("account", "key").pseudonym,
        "neuron.request_id": "r",
        "gen_ai.provider.name": "neuron",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "org/a",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.response.time_to_first_chunk": 2.5,
        "neuron.retried": False,
    }


@pytest.mark.parametrize(
    ("changes", "read_s"),
    [
        ({"usage": Usage(prompt_tokens=1, completion_tokens=0)}, 107.5),  # until the first text
        ({"usage": Usage(prompt_tokens=1, completion_tokens=0), "first_event_s": None}, 110),  # given up before
        ({"usage": Usage(prompt_tokens=1, completion_tokens=0, prefill_ms=90_000)}, 110),
        ({"queue_s": 99.0}, 110),
        ({"total_s": 99.0, "usage": Usage(prompt_tokens=1, completion_tokens=0)}, 102.5),
    ],
)
def test_phases_never_leave_their_request(changes: dict[str, Any], read_s: float) -> None:
    span = planned(exchange(ended=reply(**changes)))
    times = [time for child in span.children for time in (child.begin_ns, child.end_ns)]
    assert times == sorted(times)
    assert span.begin_ns <= times[0]
    assert times[-1] == span.end_ns
    assert span.children[1].end_ns == round(read_s * S)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"status": 404, "refusal": "model_not_found"}, ""),
        ({"status": 503, "refusal": "model_loading"}, "model_loading"),
        ({"status": 500}, "500"),
        ({"status": None}, ""),
        ({"ended": reply(outcome=ReplyOutcome.FAILED, error="engine_failed")}, "engine_failed"),
        ({"ended": reply(outcome=ReplyOutcome.ABANDONED)}, ""),
    ],
)
def test_what_the_host_is_to_blame_for_is_an_error(changes: dict[str, Any], error: str) -> None:
    assert planned(exchange(**changes)).error == error


def test_a_question_has_a_span_only_if_somebody_traces_it() -> None:
    asked = exchange(method="GET", path="/health")
    assert plan_spans(asked, begin_ns=0, end_ns=1) is None
    asked.trace = TRACE
    assert planned(asked).name == "GET"


def test_no_span_is_named_for_a_path_that_a_client_made_up() -> None:
    span = planned(exchange(path="/v1/" + "x" * 1000, status=404))
    assert span.name == "POST"
    assert "http.route" not in span.attributes
    assert len(str(span.attributes["url.path"])) < 300
