"""Whether spans are sent: a file asks, or a variable of OpenTelemetry that asks for what is offered here."""

import pytest

from neuron_service.collector import Collector, wanted_collector

ENDPOINT = "http://127.0.0.1:4318"
BY_FILE = Collector(endpoint=ENDPOINT, source="tracing.otlp_endpoint")


@pytest.mark.parametrize(
    ("endpoint", "environ", "expected"),
    [
        (None, {}, None),
        (ENDPOINT, {}, BY_FILE),
        (ENDPOINT, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other"}, BY_FILE),
        (ENDPOINT, {"OTEL_SDK_DISABLED": "true"}, None),
        (
            None,
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
            Collector(endpoint=None, source="OTEL_EXPORTER_OTLP_ENDPOINT"),
        ),
        (
            None,
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"},
            Collector(endpoint=None, source="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)  # fmt: skip
def test_who_asks_for_spans(endpoint: str | None, environ: dict[str, str], expected: Collector | None) -> None:
    assert wanted_collector(endpoint, environ) == expected
