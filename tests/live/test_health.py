"""Whether a room is well: by what its gateways said, and by the very limits of the alerts."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from roomworld import World, make_world
from viewers import announced, gateway, watching

from kernel.process import Kernel
from live import health, metrics, presence, wire
from live.bus import RedisBus
from live.metrics import Delays
from live.presence import GatewayStats

NOW = 1_000_000.0


def said(**figures: Any) -> GatewayStats:
    usual: dict[str, Any] = {
        "id": "a", "url": "ws://a", "viewers": 100, "rooms": 1, "frames": 0, "events": 0, "shed": 0, "joins": 0,
        "delay_ms_p50": 3.0, "delay_ms_p99": 20.0, "delay_ms_p95": 12.0, "at": NOW - 1,
    }  # fmt: skip
    return GatewayStats(**usual | figures)


@pytest.mark.parametrize(
    ("figures", "outbox", "stream", "state", "reasons"),
    [
        ({}, 0.0, None, "well", []),
        ({}, 0.0, "arriving", "well", []),
        ({"delay_ms_p95": 400.0}, 0.0, None, "strained", ["delay"]),
        ({"delay_ms_p95": 1400.0}, 0.0, None, "unwell", ["delay"]),
        ({"slow_viewers": 9}, 0.0, None, "strained", ["slow_viewers"]),
        ({"ready": False}, 0.0, None, "strained", ["draining"]),
        ({"ready": False, "bus_healthy": False}, 0.0, None, "unwell", ["bus_lost"]),
        ({"at": NOW - 6}, 0.0, None, "unwell", ["gateway_silent"]),
        ({"slow_viewers": 9}, 11.0, "lost", "unwell", ["outbox_stuck", "stream_lost", "slow_viewers"]),
    ],
)
def test_a_room_is_as_well_as_what_serves_it(
    figures: dict[str, Any], outbox: float, stream: str | None, state: str, reasons: list[str]
) -> None:
    judged = health.of_room(["a"], {"a": said(**figures)}, NOW, outbox, stream)
    assert (judged.state, judged.reasons) == (state, reasons)


def test_gateways_without_viewers_of_the_room_do_not_matter_and_dead_ones_do() -> None:
    bad = said(id="b", delay_ms_p95=5000.0, bus_healthy=False)
    assert health.of_room(["a"], {"a": said(), "b": bad}, NOW, 0, None).state == "well"
    assert health.of_room([], {"b": bad}, NOW, 0, None) == health.Health("well")
    assert health.of_room(["a", "gone"], {"a": said()}, NOW, 0, None).reasons == ["gateway_silent"]
    assert health.of_room(["a"], {"a": said(delay_ms_p95=0.0)}, NOW, 0, None).delay_ms is None


def test_pages_and_alerts_have_the_same_limits() -> None:
    rules = yaml.safe_load((Path(__file__).parents[2] / "deploy/prometheus/alerts.yml").read_text())
    beyond = {
        rule["alert"]: float(found[1])
        for rule in rules["groups"][0]["rules"]
        if (found := re.search(r" > ([\d.e]+)$", rule["expr"]))
    }
    assert beyond["DeliverySlow"] == beyond["BusSlow"] == beyond["LoopLate"] == health.DELAY_MS / 1000
    assert beyond["OutboxStuck"] == health.OUTBOX_SECONDS
    assert beyond["SlowCloses"] == health.SLOW_CLOSES_PER_SECOND
    assert beyond["ClaimsTurnedAway"] == health.CLAIMS_TURNED_AWAY
    assert beyond["ResumesMissed"] == health.RESUMES_MISSED
    assert beyond["BusGaps"] == health.BUS_GAPS


def test_a_second_of_trouble_is_forgotten_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(metrics, "monotonic", lambda: clock[0])
    delays = Delays()
    delays.observe(2.0)
    assert delays.quantile(0.95) == 2.0
    clock[0] += metrics.RECENT_SECONDS + 1
    assert delays.quantile(0.95) == 0.0
    assert delays.total == 2.0, "Prometheus keeps it"


async def test_the_gateway_that_holds_viewers_is_known_and_tells_its_delays(kernel: Kernel) -> None:
    world: World = await make_world(kernel)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room) as viewer:
        await RedisBus(kernel.redis).publish(world.room, "a", event=announced("一"))
        await viewer.event(wire.Announced)
        await one.pulse.beat()
        assert await presence.serving(kernel.redis, world.room) == [one.id]
        [stats] = await presence.gateways(kernel.redis)
        assert stats.delay_ms_p95 > 0
        assert stats.bus_ms_p95 > 0
        assert stats.bus_healthy
