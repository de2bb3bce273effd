"""Structured logs on standard error: one line a fact, with fields; never a token, never a coordinate."""

import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from kernel import tracing
from kernel.settings import Settings

SECRET_FIELDS = frozenset(
    {"token", "authorization", "password", "secret", "session_key", "code", "qr", "lng", "lat", "position", "openid"}
)
"""Fields that no line may carry. Leaving one out where it is logged is the rule; this is the net below it."""


def _redact(_logger: Any, _name: str, event: EventDict) -> EventDict:
    for field in SECRET_FIELDS & event.keys():
        event[field] = "[redacted]"
    return event


def configure(settings: Settings, process: str) -> None:
    """Set up logging for a whole process, once, before anything logs. ``process`` goes into every line."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    plain = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if not plain
        # The pretty tracebacks would print every variable: tokens, and where people are.
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        tracing.log_fields,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    # Libraries log through the standard module; they get the same form, from warnings upwards.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
