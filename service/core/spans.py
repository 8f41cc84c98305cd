"""Spans, by the OpenTelemetry SDK (the extra `otel`): imported only where they are recorded.

A span tells names, durations and codes: no text of an error, no URL, and no process.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from service import __version__

_LAST_EXPORT_S = 5.0


class Recorded:
    """A part of a trace that is a span."""

    __slots__ = ("_span",)

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What is handed on to whatever it begins."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def note(self, attributes: Mapping[str, str | int]) -> None:
        """Add to what the span tells."""
        self._span.set_attributes(attributes)

    def failed(self, reason: str) -> None:
        """Mark it as failed."""
        self._span.set_status(Status(StatusCode.ERROR))
        self._span.set_attribute("error.type", reason)

    def end(self) -> None:
        """End it; a part that is a block ends by itself."""
        self._span.end()


class Spans:
    """Makes the spans of this process.

    Args:
        processor: takes those that have ended.
        service: the name of this kind of process, unless the operator has given another one.
    """

    def __init__(self, processor: SpanProcessor, *, service: str) -> None:
        own = Resource.create({"service.name": service, "service.version": __version__})
        self.provider = TracerProvider(
            resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self.provider.add_span_processor(processor)
        self._tracer = self.provider.get_tracer("autos", __version__)

    @contextmanager
    def within(self, name: str, traceparent: str | None, *, kind: str, is_repeat: bool) -> Iterator[Recorded]:
        """See `tracing.within`."""
        origin = None if traceparent is None else _read(traceparent)
        parent = None if is_repeat else origin
        # Without one the context is empty: what this process was doing before has nothing to do with it.
        context = (
            Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())
        )
        links = [Link(origin)] if origin is not None and is_repeat else None
        span = self._tracer.start_span(name, context=context, kind=SpanKind[kind.upper()], links=links)
        part = Recorded(span)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield part
            except Exception as error:
                part.failed(type(error).__name__)
                raise

    def begin_call(self, name: str) -> Recorded | None:
        """Begin a span below the present one; None when there is none, or it is not recorded."""
        if not trace.get_current_span().is_recording():
            return None
        return Recorded(self._tracer.start_span(name, kind=SpanKind.CLIENT))

    def current(self) -> Recorded | None:
        """Return the part that this code runs in."""
        span = trace.get_current_span()
        return Recorded(span) if span.get_span_context().is_valid else None


def _read(traceparent: str) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )


@contextmanager
def open_export(endpoint: str, *, service: str, last_export_s: float = _LAST_EXPORT_S) -> Iterator[Spans]:
    """Send spans to a collector (OTLP over HTTP), from a thread; what it cannot take is dropped.

    Args:
        endpoint: its base address.
        last_export_s: how long a process that ends waits for a collector that does not answer.
    """
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    spans = Spans(BatchSpanProcessor(exporter), service=service)
    try:
        yield spans
    finally:
        giving_up = threading.Timer(last_export_s, exporter.shutdown)
        giving_up.start()
        spans.provider.shutdown()
        giving_up.cancel()
