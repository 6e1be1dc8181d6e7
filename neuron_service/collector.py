"""Whether the spans of requests are sent, and where to. Pure; knows nothing of OpenTelemetry's SDK."""

import importlib.util
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

__all__ = ("TRACING_PACKAGES", "Collector", "can_trace", "wanted_collector")

TRACING_PACKAGES: Final = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
"""The packages of the extra `otel`."""
_MODULES: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP: Final = "http/protobuf"


class Collector(Struct, frozen=True, kw_only=True):
    """Where spans are sent to. `endpoint` None leaves the address to OpenTelemetry's variables. `source` is the key or
    the variable that asks for it.
    """

    endpoint: str | None
    source: str


def wanted_collector(endpoint: str | None, environ: Mapping[str, str]) -> Collector | None:
    """The collector that the configuration names by its `endpoint`, or that the variables of OpenTelemetry name.

    The variables alone count only if they ask for what is offered here, OTLP over HTTP, because they may be meant for
    other programs.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint is not None:
        return Collector(endpoint=endpoint, source="tracing.otlp_endpoint")
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "otlp":
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), _HTTP)
    named = next((name for name in _ENDPOINTS if environ.get(name, "").strip()), None)
    return None if named is None or protocol != _HTTP else Collector(endpoint=None, source=named)


def can_trace() -> bool:
    """Whether the packages of the extra `otel` are installed."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in _MODULES)
    except ModuleNotFoundError:  # of a package above
        return False
