"""The one place that reads the wall clock; everything pure takes the time as an argument."""

from datetime import UTC, datetime


def now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970, the form in which times travel on the wire."""
    return int(moment.timestamp() * 1000)
