"""``geo.locations`` and ``geo.consents``: what is kept of a fix, for whom, and how long."""

import asyncio
import itertools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import hypothesis
import pytest
import structlog
from geo_places import Keep, store
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from app import retention
from geo import consents, locations
from geo.catchments import Catchments
from geo.doubt import FROZEN_AFTER, SHARED_BY
from geo.locations import Locations
from geo.tables import Doubt, FormerConsent, Location, LocationConsent
from kernel.clock import now
from kernel.errors import Refusal
from kernel.ids import new_id
from kernel.postgres import transaction
from kernel.process import Kernel

Members = Callable[..., Awaitable[list[UUID]]]
ROOM = UUID(int=1)
HERE = (121.4737, 31.2304)


@pytest.fixture
async def desk(kernel: Kernel, brand: str) -> AsyncIterator[Locations]:
    async with Catchments(kernel.sessions) as catchments, Locations(kernel.sessions, catchments) as desk:
        yield desk


async def kept(kernel: Kernel) -> dict[UUID, Any]:
    async with kernel.sessions() as session:
        rows = await session.execute(
            select(
                Location.viewer_id,
                func.ST_AsText(Location.position).label("position"),
                Location.accuracy_m,
                Location.fixed_at,
                Location.doubt,
                Location.repeats,
            )
        )
        return {row.viewer_id: row for row in rows}


def fix(desk: Locations, viewer: UUID, **changes: Any) -> Awaitable[int]:
    given = {"lng": HERE[0], "lat": HERE[1], "datum": "gcj02", "accuracy": 20.0, "now": now(), "room": ROOM} | changes
    return desk.locate("tea", viewer, **given)


async def refused(work: Awaitable[object]) -> str:
    with pytest.raises(Refusal) as caught:
        await work
    return caught.value.code


async def test_a_fix_is_kept_in_the_canonical_frame_and_answered_with_the_stores_near(
    kernel: Kernel, desk: Locations, keep_stores: Keep, make_members: Members
) -> None:
    await keep_stores([store("A", *HERE), store("B", 121.48, 31.23), store("C", 121.6, 31.23)])
    (viewer,) = await make_members(1)
    assert await fix(desk, viewer, lng=116.404, lat=39.915, datum="wgs84") == 0
    assert (await kept(kernel))[viewer].position == "POINT(116.41024449916938 39.91640428150164)"
    assert await fix(desk, viewer) == 2
    row = (await kept(kernel))[viewer]
    assert (row.position, row.accuracy_m) == ("POINT(121.4737 31.2304)", 20.0)


async def test_without_consent_nothing_is_kept(kernel: Kernel, desk: Locations, make_members: Members) -> None:
    (stranger,) = await make_members(1, consent=False)
    assert await refused(fix(desk, stranger)) == "consent_missing"
    assert await kept(kernel) == {}


async def test_a_withdrawal_erases_at_once_and_stops_the_next_fix(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    viewer, other = await make_members(2)
    await asyncio.gather(fix(desk, viewer), fix(desk, viewer, room=UUID(int=2)), fix(desk, other))
    async with transaction(kernel.sessions) as session:
        await consents.withdraw(session, viewer, now())
    assert (await kept(kernel)).keys() == {other}
    assert await refused(fix(desk, viewer)) == "consent_missing"
    async with transaction(kernel.sessions) as session:
        await consents.give(session, "tea", viewer, "2026-11", now())
    assert await fix(desk, viewer) == 0
    assert (await kept(kernel)).keys() == {viewer, other}


async def test_a_fix_written_while_consent_is_withdrawn_does_not_survive(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    (viewer,) = await make_members(1)
    async with transaction(kernel.sessions) as session:
        await consents.withdraw(session, viewer, now())
        writing = asyncio.ensure_future(fix(desk, viewer))
        # The writer waits for this transaction, because it locks the consent that we are withdrawing.
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%held%'"
        for _ in range(6000):
            async with kernel.sessions() as watcher:  # a transaction sees one picture of the activity
                waiting = await watcher.scalar(text(blocked))
            if waiting:
                break
            await asyncio.sleep(0.01)
        assert waiting == 1
        assert not writing.done()
    assert await refused(writing) == "consent_missing"
    assert await kept(kernel) == {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"accuracy": None}, "location_uncertain"),
    ({"accuracy": 1000.5}, "location_uncertain"),
    ({"accuracy": math.inf}, "location_uncertain"),
    ({"accuracy": math.nan}, "location_uncertain"),
    ({"accuracy": -1.0}, "invalid"),
    ({"lng": 121.47, "lat": 31.2}, "location_uncertain"),
    ({"lng": 121.0, "lat": 31.23}, "location_uncertain"),
    ({"lng": math.nan}, "invalid"),
    ({"lat": math.inf}, "invalid"),
    ({"lng": 180.5}, "invalid"),
    ({"datum": "utm"}, "invalid"),
]


async def test_what_decides_nothing_is_refused_and_not_kept(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    (viewer,) = await make_members(1)
    for changes, code in REFUSED:
        with pytest.raises(Refusal) as caught:
            await fix(desk, viewer, **changes)
        assert caught.value.code == code, changes
        assert "121" not in str(caught.value.problem())
    assert await kept(kernel) == {}


async def test_many_at_once_are_one_group_and_each_gets_its_own_answer(
    kernel: Kernel, desk: Locations, keep_stores: Keep, make_members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep_stores([store("A", *HERE)])
    with_consent, without = await make_members(40), await make_members(5, consent=False)
    groups: list[int] = []
    write = Locations._write

    async def counted(self: Locations, group: list[Any], *rest: Any) -> Any:
        groups.append(len(group))
        return await write(self, group, *rest)

    monkeypatch.setattr(Locations, "_write", counted)
    far = {viewer: i % 2 == 1 for i, viewer in enumerate(with_consent)}
    answers = await asyncio.gather(
        *(fix(desk, v, lng=100.0 if far.get(v) else HERE[0]) for v in with_consent + without), return_exceptions=True
    )
    assert answers[:40] == [0 if far[v] else 1 for v in with_consent]
    assert [error.code for error in answers[40:]] == ["consent_missing"] * 5
    assert len(groups) <= 2, groups
    assert (await kept(kernel)).keys() == set(with_consent)


async def test_the_newest_fix_wins_in_a_group_and_over_the_table(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    (viewer,) = await make_members(1)
    at = now()
    await asyncio.gather(
        *(fix(desk, viewer, accuracy=float(second), now=at + timedelta(seconds=second)) for second in (1, 5, 3))
    )
    assert (await kept(kernel))[viewer].accuracy_m == 5.0
    assert await fix(desk, viewer, accuracy=9.0, now=at) == 0, "an older one is answered, but not kept"
    assert (await kept(kernel))[viewer].accuracy_m == 5.0


async def test_a_full_queue_refuses_at_once(
    desk: Locations, make_members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "QUEUE", 3)
    viewers = await make_members(5)
    answers = await asyncio.gather(*(fix(desk, viewer) for viewer in viewers), return_exceptions=True)
    assert answers[:3] == [0, 0, 0]
    assert [(error.code, error.retry_after) for error in answers[3:]] == [("busy", 1)] * 2


async def test_who_leaves_is_forgotten_also_from_the_queue_but_not_who_came_back(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    stays, leaves, queued, returns = await make_members(4)
    at = now()
    await asyncio.gather(*(fix(desk, v, now=at) for v in (stays, leaves)), fix(desk, returns, now=at + timedelta(1)))
    waiting = asyncio.ensure_future(fix(desk, queued, now=at))
    await asyncio.sleep(0)
    await desk.forget(ROOM, [leaves, queued, returns], at)
    assert (await kept(kernel)).keys() == {stays, returns}
    with pytest.raises(Refusal) as caught:
        await waiting
    assert caught.value.code == "not_in_room"


async def test_fixes_expire_after_a_quarter_of_an_hour(kernel: Kernel, desk: Locations, make_members: Members) -> None:
    old, new = await make_members(2)
    at = now()
    await fix(desk, old, now=at - timedelta(minutes=16))
    await fix(desk, new, now=at - timedelta(minutes=14))
    assert await retention.forget(kernel.sessions, retention.quick(kernel.settings), at) == {"fixes": 1}
    assert (await kept(kernel)).keys() == {new}


async def test_a_jump_marks_the_viewer_for_a_while_and_travel_does_not(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    traveller, jumper = await make_members(2)
    at = now()

    async def seen(viewer: UUID, seconds: float, lng: float, accuracy: float = 20.0) -> str | None:
        await fix(desk, viewer, lng=lng, accuracy=accuracy, now=at + timedelta(seconds=seconds))
        reason: str | None = (await kept(kernel))[viewer].doubt
        return reason

    # 0.01° are 950 m here.
    assert await seen(traveller, 0, 121.40) is None
    assert await seen(traveller, 9.8, 121.41) is None, "97 m/s: the fastest train"
    assert await seen(traveller, 11, 121.42, accuracy=900) is None, "a vague fix may be anywhere"
    assert await seen(jumper, 0, 121.40) is None
    assert await seen(jumper, 10, 121.42) == "jumped"
    assert await seen(jumper, 60, 121.42) == "jumped", "one good fix does not wash it off"
    assert await seen(jumper, 640, 121.421) is None, "ten minutes do"


async def test_what_the_kept_position_may_be_off_is_no_speed(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    """A position that stayed while fixes trembled is up to 50 m from the newest of them."""
    within, beyond = await make_members(2)
    at = now()
    metres = 1 / 95_200  # degrees here
    for viewer, far in ((within, 110 + 20 + 45), (beyond, 110 + 20 + 55)):
        await fix(desk, viewer, accuracy=10.0, now=at)
        await fix(desk, viewer, lng=HERE[0] + far * metres, accuracy=10.0, now=at + timedelta(seconds=1))
    assert await signs(kernel) == {(beyond, "jumped")}


async def test_a_fix_twice_as_exact_corrects_and_a_vague_one_holds_within_fifty_metres(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    """Metres away from the kept fix, its accuracy, the new one's, and whether the position moves."""
    metres = 1 / 95_200
    cases = [(14, 30, 14.9, True), (14, 30, 15.1, False), (48, 100, 60, False), (53, 100, 60, True), (14, 10, 5, False),
             (17, 10, 5, True)]  # fmt: skip
    viewers = await make_members(len(cases))
    at = now()
    for viewer, (_, accuracy, _, _) in zip(viewers, cases, strict=True):
        await fix(desk, viewer, accuracy=float(accuracy), now=at)
    before = {viewer: row.position for viewer, row in (await kept(kernel)).items()}
    for viewer, (far, _, newer, _) in zip(viewers, cases, strict=True):
        await fix(desk, viewer, lng=HERE[0] + far * metres, accuracy=float(newer), now=at + timedelta(seconds=5))
    after = {viewer: row.position for viewer, row in (await kept(kernel)).items()}
    moved = [before[viewer] != after[viewer] for viewer in viewers]
    assert moved == [moves for *_, moves in cases]


async def signs(kernel: Kernel) -> set[tuple[UUID, str]]:
    async with kernel.sessions() as session:
        return {(row.viewer_id, row.sign) for row in await session.execute(select(Doubt.viewer_id, Doubt.sign))}


async def test_the_same_digits_again_and_again_are_a_sign_but_no_doubt_by_themselves(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    (viewer,) = await make_members(1)
    at = now()
    for second in range(FROZEN_AFTER + 1):
        assert await signs(kernel) == set()
        await fix(desk, viewer, now=at + timedelta(seconds=second))
    assert await signs(kernel) == {(viewer, "frozen")}
    assert (await kept(kernel))[viewer].doubt is None
    await fix(desk, viewer, lng=HERE[0] + 1e-6, now=at + timedelta(minutes=1))
    row = (await kept(kernel))[viewer]
    assert (row.doubt, row.repeats) == (None, 0)


async def test_many_accounts_with_one_fix_are_a_sign_for_whoever_sends_it_then(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    farm = await make_members(SHARED_BY + 1)
    at = now()
    for second, viewer in enumerate(farm):
        await fix(desk, viewer, now=at + timedelta(seconds=second))
    assert await signs(kernel) == {(viewer, "shared") for viewer in farm[SHARED_BY - 1 :]}
    elsewhere = await make_members(2)
    await fix(desk, elsewhere[0], room=UUID(int=2))
    await fix(desk, elsewhere[1], now=at + timedelta(minutes=6), lng=HERE[0] + 1e-6)
    await fix(desk, farm[0], now=at + timedelta(minutes=6))
    assert len(await signs(kernel)) == 2, "another room, other digits, or another hour are no crowd"
    assert {row.doubt for row in (await kept(kernel)).values()} == {None}


async def test_two_weak_signs_make_a_doubt_also_after_leaving_and_coming_back(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    farm = await make_members(SHARED_BY)
    at = now()
    for second in range(FROZEN_AFTER + 1):
        await asyncio.gather(*(fix(desk, viewer, now=at + timedelta(seconds=second)) for viewer in farm))
    assert {row.doubt for row in (await kept(kernel)).values()} == {"frozen+shared"}
    left = at + timedelta(minutes=1)
    await desk.forget(ROOM, farm, left)
    await fix(desk, farm[0], lng=HERE[0] + 1e-5, now=left)
    assert (await kept(kernel))[farm[0]].doubt == "frozen+shared"
    await fix(desk, farm[0], lng=HERE[0] + 2e-5, now=left + timedelta(minutes=11))
    assert (await kept(kernel))[farm[0]].doubt is None
    quick = retention.quick(kernel.settings)
    assert "doubts" not in await retention.forget(kernel.sessions, quick, at + timedelta(days=6))
    assert await retention.forget(kernel.sessions, quick, at + timedelta(days=8)) == {"doubts": 2 * SHARED_BY}


trembles = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2 * math.pi), st.integers(10, 40)), min_size=2, max_size=12)


@given(st.floats(-60, 60), trembles)
@hypothesis.settings(
    max_examples=15, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
async def test_who_sits_at_the_edge_does_not_flap_whatever_the_radius(
    kernel: Kernel, desk: Locations, keep_stores: Keep, make_members: Members, off: float, fixes: list[Any]
) -> None:
    """A seat ``off`` metres from the edge of a catchment of 1,000 m; each fix is off by less than half its accuracy."""
    await keep_stores([store("A", *HERE, radius_m=1000)])
    (viewer,) = await make_members(1)
    counts, places = [], set()
    for second, (share, turn, accuracy) in enumerate(fixes):
        away = share * max(10, min(f[2] for f in fixes)) / 2.1
        east, north = away * math.cos(turn), 1000 + off + away * math.sin(turn)
        at = now() + timedelta(seconds=second)
        lng, lat = HERE[0] + east / 95_200, HERE[1] + north / 110_870
        counts.append(await fix(desk, viewer, lng=lng, lat=lat, accuracy=float(accuracy), now=at))
        places.add((await kept(kernel))[viewer].position)
    changes = sum(one != two for one, two in itertools.pairwise(counts))
    # Only a fix more than twice as exact as the kept one may correct it: twice between 40 and 10 metres.
    assert changes <= 2
    assert len(places) <= 3
    if max(f[2] for f in fixes) <= 2 * min(f[2] for f in fixes):
        assert len(places) == 1


async def test_who_clearly_leaves_or_comes_is_seen_to(
    kernel: Kernel, desk: Locations, keep_stores: Keep, make_members: Members
) -> None:
    await keep_stores([store("A", *HERE, radius_m=1000)])
    (viewer,) = await make_members(1)
    at = now()
    # An accuracy of 10 m: by itself 1,012 is out and 1,006 near, but neither is a move from where the viewer was.
    walk = [(900, 1), (998, 1), (1012, 1), (1018, 0), (1006, 0), (1000, 1)]
    for second, (north, near) in enumerate(walk):
        told = await fix(
            desk, viewer, lat=HERE[1] + north / 110_870, accuracy=10.0, now=at + timedelta(seconds=5 * second)
        )
        assert told == near, north


async def test_a_kept_fix_that_is_stale_does_not_hold_a_new_one(
    kernel: Kernel, desk: Locations, make_members: Members
) -> None:
    (viewer,) = await make_members(1)
    at = now()
    for minute, moves in ((0, True), (9, False), (20, True)):
        before = (await kept(kernel)).get(viewer)
        await fix(desk, viewer, lng=HERE[0] + minute * 1e-6, now=at + timedelta(minutes=minute))
        after = (await kept(kernel))[viewer]
        assert (before is None or before.position != after.position) is moves


async def test_a_database_that_fails_is_answered_without_a_word_about_where_anybody_is(
    kernel: Kernel,
    desk: Locations,
    make_members: Members,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (viewer,) = await make_members(1)
    async with transaction(kernel.sessions) as session:
        await session.execute(text("ALTER TABLE locations RENAME TO gone"))
    with structlog.testing.capture_logs() as lines, caplog.at_level(logging.DEBUG):
        assert await refused(fix(desk, viewer, lng=121.4711)) == "unavailable"
    told = repr(lines) + caplog.text + "".join(capsys.readouterr())
    assert "fixes_not_written" in told
    assert "121.4711" not in told
    async with transaction(kernel.sessions) as session:
        await session.execute(text("ALTER TABLE gone RENAME TO locations"))
    assert await fix(desk, viewer) == 0, "and the desk works on"


async def test_arrivals_are_told_after_the_commit_and_a_failing_listener_hurts_nobody(
    kernel: Kernel, brand: str, make_members: Members
) -> None:
    viewers = await make_members(3)
    told: asyncio.Queue[list[tuple[str, UUID, UUID]]] = asyncio.Queue()

    async def listen(arrivals: list[tuple[str, UUID, UUID]]) -> None:
        assert {viewer for _, _, viewer in arrivals} <= (await kept(kernel)).keys()
        told.put_nowait(arrivals)
        if len(arrivals) == 1:
            raise RuntimeError("on purpose")

    async with Catchments(kernel.sessions) as catchments, Locations(kernel.sessions, catchments, listen) as desk:
        await fix(desk, viewers[0])
        assert await asyncio.wait_for(told.get(), 60) == [("tea", ROOM, viewers[0])]
        await asyncio.gather(*(fix(desk, viewer) for viewer in viewers))
        heard: set[UUID] = set()
        while heard != set(viewers):
            heard |= {viewer for _, _, viewer in await asyncio.wait_for(told.get(), 60)}


async def test_who_waits_when_the_desk_closes_is_told_to_try_again(kernel: Kernel, make_members: Members) -> None:
    (viewer,) = await make_members(1)
    catchments = Catchments(kernel.sessions)
    async with Locations(kernel.sessions, catchments) as desk:
        waiting = asyncio.ensure_future(fix(desk, viewer))
        await asyncio.sleep(0)
    assert await refused(waiting) == "unavailable"


async def test_consent_keeps_its_first_date_until_the_text_changes(kernel: Kernel, make_members: Members) -> None:
    (viewer,) = await make_members(1, consent=False)
    at = [datetime.fromisoformat(f"2026-11-22T12:0{minute}:00+00:00") for minute in range(4)]

    async def give(version: str, when: datetime) -> datetime:
        async with transaction(kernel.sessions) as session:
            return await consents.give(session, "tea", viewer, version, when)

    assert await give("1", at[0]) == at[0]
    assert await give("1", at[1]) == at[0]
    assert await give("2", at[2]) == at[2]
    async with transaction(kernel.sessions) as session:
        await consents.withdraw(session, viewer, at[3])
        assert await consents.standing(session, viewer) is None
        assert (await session.get_one(LocationConsent, viewer)).withdrawn_at == at[3]
    assert await give("2", at[3]) == at[3]
    async with transaction(kernel.sessions) as session:
        former = select(FormerConsent.version, FormerConsent.given_at, FormerConsent.withdrawn_at)
        kept = await session.execute(former.where(FormerConsent.viewer_id == viewer).order_by(FormerConsent.given_at))
        assert kept.all() == [("1", at[0], None), ("2", at[2], at[3])], "what was agreed to before stays provable"


async def test_two_devices_that_consent_at_once_agree_on_one_consent_and_forget_none(
    kernel: Kernel, make_members: Members
) -> None:
    (viewer,) = await make_members(1, consent=False)

    async def give(version: str) -> datetime:
        async with transaction(kernel.sessions) as session:
            return await consents.give(session, "tea", viewer, version, now())

    for versions in (["1", "1"], ["2", "3"], ["4", "4"]):
        await asyncio.gather(*(give(version) for version in versions))
    async with transaction(kernel.sessions) as session:
        standing = await consents.standing(session, viewer)
        assert standing is not None
        assert standing.version == "4"
        former = await session.scalars(select(FormerConsent.version).where(FormerConsent.viewer_id == viewer))
        assert sorted(former) == ["1", "2", "3"]


async def test_nobody_consents_for_a_brand_they_do_not_belong_to(kernel: Kernel, make_members: Members) -> None:
    (viewer,) = await make_members(1, consent=False)
    async with transaction(kernel.sessions) as session:
        assert await refused(consents.give(session, "other", viewer, "1", now())) == "not_found"
        assert await refused(consents.give(session, "tea", new_id(), "1", now())) == "not_found"
