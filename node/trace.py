"""Trace: what a node does for a job as spans, if the extra `otel` is there. Knows no exporter.

A job's id is 16 bytes, as a trace's is: it is the trace's, so what all nodes do for one
job joins into one picture without a word more on the wire. Without the extra nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

otel: Any
try:
    from opentelemetry import trace as otel
except ImportError:  # the extra is not installed
    otel = None

if TYPE_CHECKING:
    from opentelemetry.context import Context


@contextmanager
def span(name: str, job: bytes, agreement: bytes = b"") -> Iterator[None]:
    """A span around one duty for `job` (16 bytes). An error is noted in it and goes on."""
    if otel is None:
        yield
        return
    attributes = {"souk.job": job.hex(), "souk.agreement": agreement.hex()}
    tracer = otel.get_tracer("gridsouk")
    with tracer.start_as_current_span(name, context=_of(job), attributes=attributes):
        yield


def _of(job: bytes) -> Context:
    """The context whose trace is the job's."""
    parent = otel.SpanContext(
        trace_id=int.from_bytes(job, "big") or 1,
        span_id=int.from_bytes(job[:8], "big") or 1,
        is_remote=True,
        trace_flags=otel.TraceFlags(otel.TraceFlags.SAMPLED),
    )
    context: Context = otel.set_span_in_context(otel.NonRecordingSpan(parent))
    return context
