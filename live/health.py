"""Whether gateways and a room are well, by the limits of the alerts. Pure: what gateways said goes in."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from live.presence import GatewayStats

DELAY_MS = 250.0
"""p95 from publishing to the last socket, of what is certain; the same for the bus alone and the event loop."""
UNWELL_MS = 1000.0
"""From here on a guide is not told of a little delay, but of trouble."""
OUTBOX_SECONDS = 10.0
SLOW_CLOSES_PER_SECOND = 1.0
CLAIMS_TURNED_AWAY = 0.05
RESUMES_MISSED = 0.2
BUS_GAPS = 5
SILENT_SECONDS = 5.0
"""Gateways speak every second; one that does not is stuck, cut off or gone."""
SLOW_VIEWERS = 0.05
"""Share of sockets that do not keep up from which on a guide is told."""

State = Literal["well", "strained", "unwell"]
Reason = Literal["gateway_silent", "bus_lost", "delay", "slow_viewers", "draining", "outbox_stuck", "stream_lost"]


@dataclass(frozen=True, slots=True)
class Health:
    """How a room is. ``delay_ms``: how late nearly all viewers see what is certain; None if nothing
    was told within the last minute."""

    state: State
    delay_ms: float | None = None
    reasons: list[Reason] = field(default_factory=list)


def of_room(
    serving: Collection[str], said: Mapping[str, GatewayStats], now: float, outbox_seconds: float, stream: str | None
) -> Health:
    """The health of a room with viewers on the gateways ``serving``; ``said`` by id, ``now`` in seconds since 1970."""
    bad: list[Reason] = []
    mild: list[Reason] = []
    heard = [said[gateway] for gateway in serving if gateway in said and now - said[gateway].at <= SILENT_SECONDS]
    if len(heard) < len(serving):
        bad.append("gateway_silent")
    if not all(one.bus_healthy for one in heard):
        bad.append("bus_lost")
    delay = max((one.delay_ms_p95 for one in heard if one.delay_ms_p95), default=None)
    if delay is not None and delay > DELAY_MS:
        (bad if delay > UNWELL_MS else mild).append("delay")
    if sum(one.slow_viewers for one in heard) > SLOW_VIEWERS * sum(one.viewers for one in heard):
        mild.append("slow_viewers")
    if any(one.bus_healthy and not one.ready for one in heard):
        mild.append("draining")
    if outbox_seconds > OUTBOX_SECONDS:
        bad.append("outbox_stuck")
    if stream == "lost":
        bad.append("stream_lost")
    return Health("unwell" if bad else "strained" if mild else "well", delay, [*bad, *mild])
