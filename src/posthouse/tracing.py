"""Spans for OpenTelemetry, where its extra is installed and its standard variables name a collector; else nothing.

Callers check `on` before they make a span, so while nothing is traced that check is the whole cost.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

from posthouse import __version__
from posthouse.errors import BadRequest

HEADER: Final = "traceparent"
"""W3C's header, by which a trace goes on in the next process."""
ADDRESSES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
Kind = Literal["INTERNAL", "SERVER", "CLIENT"]

on = False
"""Whether anything is traced."""
_tracer: Any = None
_inside: "ContextVar[Span | None]" = ContextVar("posthouse_span", default=None)


class Span:
    """Something that takes time, within a trace."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @property
    def traceparent(self) -> str:
        """What the next process is told."""
        context = self._inner.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    @property
    def is_over(self) -> bool:
        return not self._inner.is_recording()

    def end(self, error: str = "", **attributes: str | float) -> None:
        """Once only; later calls mean nothing. `error`: why it failed."""
        if self.is_over:
            return
        self._inner.set_attributes(_named(attributes))
        if error:
            from opentelemetry.trace import Status, StatusCode

            self._inner.set_status(Status(StatusCode.ERROR, error[:200]))
        self._inner.end()


def begin(name: str, parent: "Span | str | None" = None, kind: Kind = "INTERNAL", **attributes: str | float) -> Span:
    """A span that has begun. `parent`: a span, or a `traceparent`; else the one that this task is inside of, if any.

    Only to be called while `on`.
    """
    from opentelemetry.trace import SpanKind, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = parent or _inside.get()
    context = set_span_in_context(parent._inner) if isinstance(parent, Span) else None
    if isinstance(parent, str):
        context = TraceContextTextMapPropagator().extract({HEADER: parent})
    return Span(_tracer.start_span(name, context, SpanKind[kind], _named(attributes)))


def inside() -> Span | None:
    """What this task is inside of."""
    return _inside.get()


@contextmanager
def within(
    name: str, kind: Kind = "INTERNAL", parent: str | None = None, **attributes: str | float
) -> Iterator[Span | None]:
    """A span for what is done within, tasks that are begun there too; None while nothing is traced.

    `parent`: a `traceparent`, or empty for a trace of its own; None: only where this is inside of a span.
    """
    if not on or (parent is None and inside() is None):
        yield None
        return
    span = begin(name, parent, kind, **attributes)
    token = _inside.set(span)
    try:
        yield span
    except BaseException as error:
        span.end(error=type(error).__name__)
        raise
    finally:
        _inside.reset(token)
        span.end()


@contextmanager
def traced(service: str) -> Iterator[None]:
    """Traces what is done within, if the environment says where to; at the end what is left is sent.

    Raises: BadRequest where OpenTelemetry is not installed.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, ADDRESSES)):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        text = "is set, and OpenTelemetry is not installed: pip install 'posthouse[otel]', or unset it"
        raise BadRequest(f"{next(filter(os.environ.get, ADDRESSES))} {text}") from None
    global on, _tracer
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer, on = provider.get_tracer("posthouse", __version__), True

    try:
        yield
    finally:
        on = False
        provider.shutdown()


def _named(attributes: dict[str, str | float]) -> dict[str, str | float]:
    return {f"posthouse.{name}": value for name, value in attributes.items()}
