"""When a store is open: by its hours in the brand's time zone, and by a temporary closing. Every fact is passed in."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from typing import Literal

State = Literal["open", "closed", "closed_for_now", "unknown"]
"""``closed`` by its hours, ``closed_for_now`` by a temporary closing, ``unknown`` for a store that gave no hours."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a store stands at a moment, and when that changes by itself (None: never, or nobody knows)."""

    state: State
    until: datetime | None


def standing(
    opens: time | None, closes: time | None, closed_until: datetime | None, at: datetime, zone: tzinfo
) -> Standing:
    """How a store with these hours stands at ``at``; times of day are those of ``zone``.

    Hours that end before they begin pass midnight (18:00–02:00); equal ones mean day and night. The opening minute is
    in, the closing minute is out. ``until`` of a temporary closing is when the store is open again, which may be the
    next morning; it is in UTC.
    """
    if closed_until is not None and closed_until > at:
        then = standing(opens, closes, None, closed_until, zone)
        return Standing("closed_for_now", then.until if then.state == "closed" else closed_until)
    if opens is None or closes is None:
        return Standing("unknown", None)
    if opens == closes:
        return Standing("open", None)
    is_open = _within(opens, closes, at, zone)
    today = at.astimezone(zone).date()
    edge = closes if is_open else opens
    # Yesterday's edge may still lie ahead where clocks are put back, tomorrow's is next for most of the day.
    edges = (datetime.combine(today + timedelta(days=days), edge, zone).astimezone(at.tzinfo) for days in (-1, 0, 1, 2))
    return Standing("open" if is_open else "closed", min(moment for moment in edges if moment > at))


def _within(opens: time, closes: time, at: datetime, zone: tzinfo) -> bool:
    clock = at.astimezone(zone).time()
    if opens < closes:
        return opens <= clock < closes
    return clock >= opens or clock < closes
