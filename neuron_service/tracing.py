"""Spans for OpenTelemetry's collectors, over OTLP. The only module that imports OpenTelemetry's SDK.

The SDK sends spans from a thread of its own, drops spans if nobody takes them, and reads its own variables (`OTEL_…`).
"""

from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from neuron_service.exchange import Exchange, TraceParent
from neuron_service.spans import PlannedSpan, plan_spans

__all__ = ("Tracing",)

_TRACES_PATH: Final = "/v1/traces"
_UNNAMED: Final = "unknown_service"


class Tracing:
    """Sends the spans of requests that have ended. Lives as long as the service. `close` sends what waits.

    `take` does not wait and belongs to the event loop. `close` may wait for the collector, so call it in a thread.
    """

    def __init__(self, *, endpoint: str | None, version: str) -> None:
        """`endpoint` is the address of a collector, such as `http://127.0.0.1:4318`. None takes that of the SDK's own
        variables.
        """
        url = None if endpoint is None else endpoint.rstrip("/") + _TRACES_PATH
        self._provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)))
        self._tracer = self._provider.get_tracer("neuron", version)

    def take(self, exchange: Exchange, begin_ns: int, end_ns: int) -> None:
        """Send the spans of an exchange that has ended. Times are nanoseconds of Unix time."""
        planned = plan_spans(exchange, begin_ns=begin_ns, end_ns=end_ns)
        if planned is not None:
            self._send(planned, _context(exchange.trace), SpanKind.SERVER)

    def close(self) -> None:
        """Send the spans that wait, as far as the collector takes them, and end the thread."""
        self._provider.shutdown()

    def _send(self, planned: PlannedSpan, context: Context, kind: SpanKind) -> None:
        span = self._tracer.start_span(
            planned.name, context, kind=kind, attributes=planned.attributes, start_time=planned.begin_ns
        )
        if planned.error:
            span.set_attribute("error.type", planned.error)
            span.set_status(StatusCode.ERROR)
        below = set_span_in_context(span, context)
        for child in planned.children:
            self._send(child, below, SpanKind.INTERNAL)
        span.end(planned.end_ns)


def _context(trace: TraceParent | None) -> Context:
    """The context of the span that the request belongs to. Empty if there is none."""
    if trace is None:
        return Context()
    remote = SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(trace.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _resource(version: str) -> Resource:
    """What the SDK's variables say of this service, and its name and version where they say nothing."""
    own = Resource({SERVICE_NAME: "neuron", SERVICE_VERSION: version})
    told = Resource.create()
    is_unnamed = str(told.attributes.get(SERVICE_NAME, _UNNAMED)).startswith(_UNNAMED)
    return told.merge(own) if is_unnamed else own.merge(told)
