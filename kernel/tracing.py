"""Traces, so that one drop can be followed from the guide's request through outbox, relay and bus to viewers' sockets.

Off unless ``NEARCAST_OTLP_ENDPOINT`` names a collector; then spans go there by OTLP over HTTP, from a thread, in
batches, and are thrown away when it does not answer. Off, we import nothing of OpenTelemetry, and a call here costs one
look at a variable. There is one for the process, as for logging, set before anything runs. Between processes a W3C
``traceparent`` travels in the outbox's payload and in the bus's envelope, never on the viewers' wire. Attributes are
identifiers of rooms and drops and plain counts: no person, no place, no token.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from kernel.settings import Settings

if TYPE_CHECKING:
    from kernel.spans import Tracing

PREFIX = b'{"traceparent":"'
_LENGTH = 55
"""Characters of a ``traceparent`` of version 00."""
LINKS = 32
"""Traces that a batch names besides the one it continues."""
Attribute = str | int | bool


class Mark(Protocol):
    """A span as a context manager; within it, what is begun belongs to it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, name: str | None = None, **attributes: Attribute) -> None:
        """Add attributes, or give the span its final name."""

    def end(self) -> None:
        """It is over; for spans that are not used as context managers."""


class _Nothing:
    """A span while tracing is off, or of what nobody follows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, name: str | None = None, **attributes: Attribute) -> None:
        pass

    def end(self) -> None:
        pass


UNTRACED = _Nothing()
"""What nobody follows."""
_tracing: "Tracing | None" = None


def configure(settings: Settings, process: str) -> None:
    """Set up tracing for a whole process, once; what was not sent is sent at its orderly end."""
    global _tracing
    if settings.otlp_endpoint:
        from kernel.spans import Tracing

        _tracing = Tracing(settings.otlp_endpoint, process)


def enabled() -> bool:
    """Whether spans are made."""
    return _tracing is not None


def span(name: str, *, links: Iterable[str] = (), **attributes: Attribute) -> Mark:
    """A span of what is under way here, or the beginning of a trace; ``links`` are traceparents."""
    return UNTRACED if _tracing is None else _tracing.span(name, "", links, attributes)


def follow(name: str, origin: str, **attributes: Attribute) -> Mark:
    """A span that continues ``origin`` (a traceparent from another process or task); nothing where that is empty."""
    return UNTRACED if _tracing is None or not origin else _tracing.span(name, origin, (), attributes)


def gather(name: str, origins: Iterable[str], **attributes: Attribute) -> Mark:
    """A span of work for several: it continues the first of them and is linked to the others."""
    if _tracing is None:
        return UNTRACED
    known = [origin for origin in origins if origin]
    return _tracing.span(name, known[0], known[1 : 1 + LINKS], attributes) if known else UNTRACED


def begin(name: str, origin: str, **attributes: Attribute) -> Mark:
    """``follow`` for what does not end where it begins: call ``end``."""
    return UNTRACED if _tracing is None or not origin else _tracing.begin(name, origin, attributes)


def note(**attributes: Attribute) -> None:
    """Add to the span under way."""
    if _tracing is not None:
        _tracing.note(attributes)


def here() -> str:
    """The traceparent of the span under way; empty without one."""
    return "" if _tracing is None else _tracing.here()


def carried(payload: bytes) -> bytes:
    """``payload``, a JSON object, with the traceparent of what is under way as its first field."""
    if _tracing is None or len(payload) <= len(b"{}") or not (origin := _tracing.here()):
        return payload
    return PREFIX + origin.encode() + b'",' + payload[1:]


def origin_of(payload: bytes) -> str:
    """The traceparent that ``carried`` put there; empty without one."""
    if not payload.startswith(PREFIX):
        return ""
    return payload[len(PREFIX) : len(PREFIX) + _LENGTH].decode("ascii", "replace")


def log_fields(_logger: Any, _name: str, event: Any) -> Any:
    """For structlog: the trace that a line belongs to."""
    if _tracing is not None and (origin := _tracing.here()):
        event["trace_id"] = origin.split("-")[1]
    return event
