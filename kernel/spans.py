"""``kernel.tracing`` on OpenTelemetry. Imported only where traces are asked for."""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kernel.ids import new_id

_FORM = TraceContextTextMapPropagator()
_SEND_EVERY_MS = 1000

Attribute = str | int | bool


def _context(origin: str) -> Context:
    # An empty context, not the current one: what this continues is somebody else's.
    return _FORM.extract({"traceparent": origin}, Context())


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {f"nearcast.{name}": value for name, value in attributes.items()}


class _Mark:
    """See ``kernel.tracing.Mark``."""

    def __init__(self, span: Span) -> None:
        self._span = span
        # An error's message may quote a value, and its trace variables: only the kind of error is told.
        self._use = trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)

    def __enter__(self) -> Self:
        self._use.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("error.type", kind.__name__)
        self._use.__exit__(None, None, None)

    def note(self, name: str | None = None, **attributes: Attribute) -> None:
        if name is not None:
            self._span.update_name(name)
        self._span.set_attributes(_named(attributes))

    def end(self) -> None:
        self._span.end()


class Tracing:
    """One process's spans, on their way to ``endpoint`` (the collector's base address, without ``/v1/traces``)."""

    def __init__(self, endpoint: str, process: str) -> None:
        named = {"service.name": f"nearcast-{process}", "service.instance.id": new_id().hex}
        provider = TracerProvider(resource=Resource.create(named))  # ends with the interpreter, sending what is left
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=5)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_SEND_EVERY_MS))
        self._tracer = provider.get_tracer("nearcast")

    def span(self, name: str, origin: str, links: Iterable[str], attributes: Mapping[str, Attribute]) -> _Mark:
        """See ``kernel.tracing.span`` and ``follow``."""
        linked = [Link(trace.get_current_span(_context(link)).get_span_context()) for link in links]
        context = _context(origin) if origin else None
        return _Mark(self._tracer.start_span(name, context, links=linked, attributes=_named(attributes)))

    def begin(self, name: str, origin: str, attributes: Mapping[str, Attribute]) -> _Mark:
        """See ``kernel.tracing.begin``."""
        return self.span(name, origin, (), attributes)

    def note(self, attributes: Mapping[str, Attribute]) -> None:
        """See ``kernel.tracing.note``."""
        trace.get_current_span().set_attributes(_named(attributes))

    def here(self) -> str:
        """See ``kernel.tracing.here``."""
        carrier: dict[str, str] = {}
        _FORM.inject(carrier)
        return carrier.get("traceparent", "")
