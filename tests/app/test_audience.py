"""The simulated audience: plausible talk and places, checks that find what is wrong, and a whole short evening."""

import asyncio
import json
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve

from app import audience, demo, up
from app.audience.line import Events, Line, Reader
from app.audience.rest import Refused, Rest
from app.audience.stage import Campaign, Scene, Stage
from app.audience.talk import Talk
from app.audience.tally import Delays, Tally
from app.audience.till import Tills
from app.audience.town import FAR_M, Shop, Town, distance_m
from app.audience.viewer import Viewer
from geo.datum import convert
from kernel.process import Kernel
from kernel.settings import Settings
from live import wire

SHOPS = [
    Shop("A", "甲店", "上海市", 121.4461, 31.2235, 3000),
    Shop("B", "乙店", "北京市", 116.3742, 39.9095, 1000),
]


# ---- talk and places -----------------------------------------------------------------------------------------------


def test_comments_are_mostly_short_and_never_too_long() -> None:
    talk = Talk(Random(3))
    lengths = sorted(len(talk.comment()) for _ in range(4000))
    assert lengths[0] >= 1
    assert lengths[2000] <= 6
    assert 12 <= lengths[3800] <= 60
    assert lengths[-1] <= wire.MAX_TEXT


def test_the_same_chance_says_the_same() -> None:
    one, other = Talk(Random(3)), Talk(Random(3))
    assert [one.comment() for _ in range(50)] == [other.comment() for _ in range(50)]


def test_a_near_viewers_fix_is_within_reach_of_their_shop_whatever_the_datum() -> None:
    chance = Random(5)
    town = Town(SHOPS, chance)
    datums = set()
    for _ in range(300):
        place = town.near()
        assert place.shop is not None
        fix = place.fix(chance)
        datums.add(fix.datum)
        lng, lat = convert(fix.lng, fix.lat, fix.datum, "gcj02")
        away = distance_m(lng, lat, place.shop.lng, place.shop.lat)
        assert fix.accuracy is not None
        assert away + fix.accuracy <= place.shop.reach_m
    assert datums == {"wgs84", "gcj02", "bd09"}


def test_a_far_viewer_is_far_from_every_shop() -> None:
    town = Town(SHOPS, Random(5))
    for _ in range(50):
        place = town.far()
        assert all(distance_m(place.lng, place.lat, shop.lng, shop.lat) > FAR_M for shop in SHOPS)


def test_no_two_fixes_of_somebody_who_sits_still_are_the_same() -> None:
    chance = Random(5)
    place = Town(SHOPS, chance).near()
    assert len({(fix.lng, fix.lat) for fix in (place.fix(chance) for _ in range(50))}) == 50


def test_walking_goes_towards_the_shop_at_walking_pace_and_stops_there() -> None:
    place = Town(SHOPS[:1], Random(5)).near()
    before = distance_m(place.lng, place.lat, SHOPS[0].lng, SHOPS[0].lat)
    place.walk(SHOPS[0], 60)
    after = distance_m(place.lng, place.lat, SHOPS[0].lng, SHOPS[0].lat)
    assert before - after == pytest.approx(78, abs=2)
    place.walk(SHOPS[0], 10_000)
    assert distance_m(place.lng, place.lat, SHOPS[0].lng, SHOPS[0].lat) < 1


def test_what_a_till_must_take_off() -> None:
    item = {"id": str(uuid4()), "title": "t", "stock": 9, "issued": 2}
    amount = Campaign.from_item(item | {"kind": "amount", "amount_fen": 1500, "threshold_fen": 6000})
    percent = Campaign.from_item(item | {"kind": "percent", "percent_off": 20, "amount_fen": 3000})
    gift = Campaign.from_item(item | {"kind": "gift", "gift": "米糕"})
    assert (amount.discount(6000), amount.left) == (1500, 7)
    assert (percent.discount(10_000), percent.discount(90_000)) == (2000, 3000)
    assert gift.discount(10_000) == 0


# ---- counting ------------------------------------------------------------------------------------------------------


def test_delays_keep_a_bounded_sample_with_the_right_percentiles() -> None:
    delays = Delays()
    values = list(range(50_000))
    Random(1).shuffle(values)
    for value in values:
        delays.add(value)
    assert len(delays._kept) < Delays.LIMIT
    median, high = delays.percentile(0.5), delays.percentile(0.99)
    assert median is not None
    assert high is not None
    assert abs(median - 25_000) < 2_500
    assert abs(high - 49_500) < 500


def test_a_refusal_is_a_problem_only_if_it_was_not_to_be_expected() -> None:
    tally = Tally()
    tally.refusal("claim", "sold_out", frozenset({"sold_out"}))
    assert tally.problems == []
    tally.refusal("claim", "bad_request", frozenset({"sold_out"}))
    assert [problem["what"] for problem in tally.problems] == ["claim refused with bad_request"]
    assert tally.refused == {"claim:sold_out": 1, "claim:bad_request": 1}


# ---- the log's order -----------------------------------------------------------------------------------------------


def announced(*texts: str) -> list[wire.RoomEvent]:
    return [wire.Announced(text, at) for at, text in enumerate(texts)]


async def checked(told: list[list[wire.RoomEvent]], reference: list[wire.RoomEvent]) -> tuple[Viewer, Tally]:
    """A viewer who heard ``told``, checked after each part."""
    tally = Tally()
    rest = Rest("http://127.0.0.1:1", "demo")
    async with asyncio.TaskGroup() as group:
        stage = Stage(rest, tally, Random(1), group)
        scene = Scene(uuid4(), "", [], [], told=reference)
        viewer = Viewer(stage, scene, 1, Town(SHOPS, stage.chance), "shy")
        for part in told:
            viewer.batch(Events(len(part), part, [], None, None))
            viewer.check_order()
    await rest.close()
    return viewer, tally


async def test_who_hears_every_event_from_some_point_on_has_no_problem() -> None:
    events = announced("a", "b", "c", "d", "e")
    viewer, tally = await checked([events[1:3], events[3:]], events)
    assert tally.problems == []
    assert viewer.missing_at_end() == 0


async def test_a_missing_event_is_found() -> None:
    events = announced("a", "b", "c", "d")
    _, tally = await checked([[events[0], events[2]]], events)
    assert tally.problems[0]["what"] == "certain events out of order, or one missing"


async def test_two_swapped_events_are_found() -> None:
    events = announced("a", "b", "c")
    _, tally = await checked([[events[1], events[0]]], events)
    assert len(tally.problems) == 1


async def test_a_missing_end_is_counted() -> None:
    events = announced("a", "b", "c", "d")
    viewer, tally = await checked([events[:2]], events)
    assert tally.problems == []
    assert viewer.missing_at_end() == 2


async def test_who_is_ahead_of_the_guide_waits_for_the_next_check() -> None:
    events = announced("a", "b", "c")
    reference = events[:1]
    viewer, tally = await checked([events], reference)
    assert tally.problems == []
    reference += events[1:]
    viewer.check_order()
    assert tally.problems == []
    assert viewer.missing_at_end() == 0


# ---- the line ------------------------------------------------------------------------------------------------------


class Ear:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.gone: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    def heard(self, payload: bytes) -> None:
        self.messages.put_nowait(payload)

    def hung_up(self, code: int | None, reason: str) -> None:
        self.gone.set_result(code)


async def dial(port: int, ear: Ear) -> Line:
    line = Line(f"ws://127.0.0.1:{port}/room", wire.Hello("t"), ear)
    await asyncio.get_running_loop().create_connection(lambda: line, "127.0.0.1", port)
    return line


async def test_a_line_says_hello_answers_pings_and_tells_why_it_ended(free_port: int) -> None:
    async def answer(connection: ServerConnection) -> None:
        assert wire.client_frames.decode(await connection.recv()) == wire.Hello("t")
        assert await (await connection.ping()) > 0
        await connection.send("one")
        assert wire.client_frames.decode(await connection.recv()) == wire.Like(3)
        await connection.close(4504)

    async with serve(answer, "127.0.0.1", free_port), asyncio.timeout(60):
        ear = Ear()
        line = await dial(free_port, ear)
        assert await ear.messages.get() == b"one"
        line.send(wire.Like(3))
        assert await ear.gone == 4504
        assert not line.open
        line.send(wire.Like(3))  # too late, and harmless


async def test_a_line_that_is_cut_ends_without_a_code(free_port: int) -> None:
    async def answer(connection: ServerConnection) -> None:
        await connection.send("in")
        await connection.wait_closed()

    async with serve(answer, "127.0.0.1", free_port), asyncio.timeout(60):
        ear = Ear()
        line = await dial(free_port, ear)
        await ear.messages.get()
        line.cut()
        assert await ear.gone is None


def test_a_batch_is_decoded_once_for_all_who_get_it() -> None:
    person = wire.Person(UUID(int=1), "x")
    raws = [
        wire.encoder.encode(event)
        for event in (wire.Commented(UUID(int=2), person, "嗨", 17), wire.Announced("a", 3), wire.Joined(person))
    ]
    payload = b'{"t":"batch","e":[' + b",".join(raws) + b'],"seq":4}'
    reader = Reader()
    first = reader.read(payload)
    assert isinstance(first, Events)
    assert reader.read(bytes(bytearray(payload))) is first
    assert (first.count, first.seq, first.newest_comment) == (3, 4, 17)
    assert first.certain == [wire.Announced("a", 3)]


# ---- REST ----------------------------------------------------------------------------------------------------------


async def test_a_busy_service_is_asked_again_with_the_same_key_and_a_refusal_is_not() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        if len(requests) == 1:
            return httpx.Response(503, json={"code": "busy"}, headers={"content-type": "application/problem+json"})
        if request.url.path == "/no":
            return httpx.Response(409, json={"code": "ended"}, headers={"content-type": "application/problem+json"})
        return httpx.Response(200, json={"id": 1})

    rest = Rest("http://x", "demo")
    await rest._client.aclose()
    rest._client = httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(answer))
    assert await rest.call("POST", "/yes", "token", {}) == {"id": 1}
    assert requests[0].headers["Idempotency-Key"] == requests[1].headers["Idempotency-Key"]
    with pytest.raises(Refused) as refused:
        await rest.call("POST", "/no", "token", {})
    assert (refused.value.code, refused.value.status) == ("ended", 409)
    assert len(requests) == 3
    await rest.close()


async def test_a_wrong_redemption_that_goes_through_is_a_problem() -> None:
    tally = Tally()
    rest = Rest("http://127.0.0.1:1", "demo")

    async def goes_through() -> dict[str, Any]:
        return {}

    async def refused_with(code: str) -> None:
        raise Refused("POST /v1/redemptions", 409, {"code": code})

    async with asyncio.TaskGroup() as group:
        stage = Stage(rest, tally, Random(1), group)
        tills = Tills(stage, Town(SHOPS, stage.chance))
        await tills._refused("redeem", "already_redeemed", refused_with("already_redeemed"))
        assert tally.problems == []
        await tills._refused("redeem", "already_redeemed", refused_with("wrong_store"))
        await tills._refused("redeem", "already_redeemed", goes_through())
    await rest.close()
    assert {problem["what"] for problem in tally.problems} == {
        "redeem refused with wrong_store",
        "redeem went through instead of already_redeemed",
    }


async def test_an_audience_without_an_api_says_so_and_fails(
    monkeypatch: pytest.MonkeyPatch, free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.audience.rest.PATIENCE", ())
    assert await audience.run(f"http://127.0.0.1:{free_port}", 5, 1) == 1
    first, closing = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first == {"second": 0}
    assert closing["viewers"] == 0
    assert closing["problems"][0]["what"] == "the evening could not begin"


# ---- a whole evening -----------------------------------------------------------------------------------------------


@pytest.mark.deep  # test_newcomer holds a shorter one to the same
async def test_a_short_evening_contains_everything_and_has_no_problem(
    settings: Settings, kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    async with up.stack(settings) as running:
        await demo.load(kernel)
        code = await audience.run(running.api, 60, 16)
    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    closing = lines[-1]
    assert closing["problems"] == []
    assert code == 0
    assert len(lines) > 10
    assert all("problems" not in line for line in lines[:-1])
    assert 30 <= closing["viewers"] <= 60
    for figure in ("comments", "delivered", "likes", "fixes", "drops", "coupons_issued", "redeemed", "lines_lost"):
        assert closing[figure] > 0, figure
    for refusal in ("fix (unasked):consent_missing", "fix (vague):location_uncertain", "redeem:already_redeemed"):
        assert closing["refused"].get(refusal, 0) > 0, refusal
