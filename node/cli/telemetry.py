"""Telemetry: sends the node's spans to an OpenTelemetry collector, if one is named.

OTEL_EXPORTER_OTLP_ENDPOINT names it, as everywhere; the extra `otel` brings what is needed.
"""

from __future__ import annotations

import importlib.metadata
import os

from market.errors import SpecError


def export_spans(peer: str) -> bool:
    """Begin to send spans; whether a collector is named. Raises SpecError without the extra."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SpecError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra is not installed",
            hint="install gridsouk[otel], or unset it",
        ) from None
    about = {
        "service.name": "gridsouk",
        "service.version": importlib.metadata.version("gridsouk"),
        "service.instance.id": peer,
    }
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True
