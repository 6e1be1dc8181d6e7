"""Spans as a collector gets them: over OTLP, by the SDK, below the span of the caller."""

import os

import pytest

from neuron_lib import EndedReply, FinishReason, ReplyOutcome, Usage
from neuron_service.exchange import Exchange, TraceParent
from neuron_service.tracing import Tracing
from tests.fakes.otlp_receiver import OtlpReceiver, otlp_receiver

pytestmark = pytest.mark.process

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SERVER, INTERNAL = 2, 1


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def exchange(*, is_sampled: bool | None = None, status: int = 200) -> Exchange:
    trace = None if is_sampled is None else TraceParent(trace_id=TRACE_ID, parent_id=PARENT_ID, is_sampled=is_sampled)
    ended = EndedReply(
        model_id="org/a",
        outcome=ReplyOutcome.FINISHED,
        error=None,
        finish_reasons=(FinishReason.STOP,),
        usage=Usage(prompt_tokens=3, completion_tokens=4),
        retried=False,
        principal=None,
        queue_s=0.0,
        first_event_s=0.0,
        total_s=0.0,
    )
    path = "/v1/chat/completions"
    return Exchange(request_id="r", method="POST", path=path, trace=trace, status=status, ended=ended)


def sent(receiver: OtlpReceiver, *exchanges: Exchange, endpoint: str | None = None) -> None:
    """Send the spans of exchanges, and wait until the receiver has them."""
    tracing = Tracing(endpoint=receiver.url if endpoint is None else endpoint, version="1.2.3")
    for each in exchanges:
        tracing.take(each, 10, 20)
    tracing.close()


def test_a_collector_gets_the_span_of_a_request_and_its_phases() -> None:
    with otlp_receiver() as receiver:
        sent(receiver, exchange())
    assert receiver.paths == ["/v1/traces"]
    spans = {span.name: span for span in receiver.spans}
    assert set(spans) == {"POST /v1/chat/completions", "queue", "prefill", "decode"}
    whole = spans["POST /v1/chat/completions"]
    assert (whole.kind, whole.parent_id, whole.begin_ns, whole.end_ns, whole.is_error) == (SERVER, "", 10, 20, False)
    assert (whole.attributes["gen_ai.usage.output_tokens"], whole.attributes["neuron.request_id"]) == (4, "r")
    assert whole.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert {(span.kind, span.parent_id) for name, span in spans.items() if span is not whole} == {
        (INTERNAL, whole.span_id)
    }
    assert len({span.trace_id for span in receiver.spans}) == 1
    assert (whole.resource["service.name"], whole.resource["service.version"]) == ("neuron", "1.2.3")


def test_a_request_of_a_trace_is_a_span_of_it() -> None:
    with otlp_receiver() as receiver:
        sent(receiver, exchange(is_sampled=True))
    (whole,) = [span for span in receiver.spans if span.kind == SERVER]
    assert (whole.trace_id, whole.parent_id) == (TRACE_ID, PARENT_ID)


def test_a_trace_that_its_caller_does_not_sample_is_not_sent() -> None:
    with otlp_receiver() as receiver:
        sent(receiver, exchange(is_sampled=False))
    assert receiver.spans == []


def test_an_error_is_one_in_the_span_too() -> None:
    with otlp_receiver() as receiver:
        sent(receiver, exchange(status=500))
    (whole,) = [span for span in receiver.spans if span.kind == SERVER]
    assert (whole.is_error, whole.attributes["error.type"]) == (True, "500")


def test_the_variables_of_opentelemetry_name_the_collector_and_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        tracing = Tracing(endpoint=None, version="1.2.3")
        tracing.take(exchange(), 10, 20)
        tracing.close()
    assert {span.resource["service.name"] for span in receiver.spans} == {"mine"}
    assert receiver.paths == ["/v1/traces"]
