"""Reports of viewers, from the socket to the verdict."""

import asyncio
from dataclasses import replace
from uuid import UUID

import msgspec
import pytest
from roomworld import World, do, refusal, refused
from viewers import gateway, principal, watching

from kernel.ids import new_id
from live import comments, reports, rooms, wire
from live.bus import Kept


async def said(world: World, text: str = "加我领券", room: UUID | None = None) -> UUID:
    row = Kept(new_id(), new_id(), "路人", "viewer", text, 1_781_784_067_000)
    await do(world, comments.store, room or world.room, [row])
    return row.id


async def listed(world: World, *, resolved: bool = False) -> list[reports.Case]:
    found = await do(world, reports.cases, "acme", resolved=resolved, before=None, limit=100)
    return list(found)


async def test_a_comment_is_reported_once_by_each_viewer(world: World) -> None:
    comment = await said(world)
    for reason in ("spam", "spam", "fraud"):
        await do(world, reports.report, world.viewer, world.room, comment, reason)
    await do(world, reports.report, principal(), world.room, comment, "fraud")
    await do(world, reports.report, principal(), world.room, comment, "spam")
    [case] = await listed(world)
    assert (case.comment.text, case.room_title, case.reported.reports) == ("加我领券", "新品", 3)
    assert case.reasons == {"fraud": 1, "spam": 2}


async def test_reports_at_once_are_counted_exactly(world: World) -> None:
    comment = await said(world)
    crowd = [principal() for _ in range(8)]
    await asyncio.gather(*(do(world, reports.report, who, world.room, comment, "abuse") for who in crowd * 2))
    [case] = await listed(world)
    assert (case.reported.reports, case.reasons) == (8, {"abuse": 8})


async def test_what_may_not_be_reported(world: World) -> None:
    comment = await said(world)
    elsewhere = await said(world, room=world.planned)
    report = reports.report
    assert await refused(world, report, world.guide, world.room, comment, "spam") == "forbidden"
    assert await refused(world, report, world.viewer, world.room, elsewhere, "spam") == "not_found"
    assert await refused(world, report, principal(brand="other"), world.room, comment, "spam") == "not_found"
    own = replace(world.viewer, subject=(await listed_author(world, comment)))
    assert await refused(world, report, own, world.room, comment, "spam") == "invalid"
    assert await listed(world) == []


async def listed_author(world: World, comment: UUID) -> UUID:
    async with world.kernel.sessions() as session:
        [row] = [row for row in await comments.said(session, world.room, None, 10) if row.id == comment]
    return row.author_id


async def test_a_comment_that_may_be_on_its_way_is_to_be_reported_again_in_a_moment(world: World) -> None:
    young = await refusal(world, reports.report, world.viewer, world.room, new_id(), "spam")
    assert (young.code, young.retry_after) == ("not_found", 2.0)
    never = await refusal(world, reports.report, world.viewer, world.room, UUID(int=7), "spam")
    assert (never.code, never.retry_after) == ("not_found", None)


async def test_ops_takes_a_reported_comment_down_for_good(world: World) -> None:
    comment = await said(world)
    await do(world, reports.report, world.viewer, world.room, comment, "abuse")
    for _ in range(2):
        await do(world, reports.resolve, world.ops, comment, "delete")
    assert [event for event, _ in await world.events()] == [wire.Deleted(comment)]
    assert await listed(world) == []
    [case] = await listed(world, resolved=True)
    assert (case.reported.verdict, case.reported.resolved_by) == ("delete", world.ops.subject)
    assert case.comment.deleted_at is not None
    assert await refused(world, reports.resolve, world.ops, comment, "keep") == "already_resolved"
    await do(world, reports.report, principal(), world.room, comment, "abuse")
    assert (await listed(world, resolved=True))[0].reported.reports == 1


async def test_a_comment_that_was_kept_stays_decided_but_may_be_taken_down_later(world: World) -> None:
    comment = await said(world)
    await do(world, reports.report, world.viewer, world.room, comment, "other")
    await do(world, reports.resolve, world.ops, comment, "keep")
    await do(world, reports.report, principal(), world.room, comment, "spam")
    assert await listed(world) == []
    assert await world.events() == []
    [case] = await listed(world, resolved=True)
    assert (case.reported.verdict, case.reported.reports) == ("keep", 2)
    await do(world, reports.resolve, world.ops, comment, "delete")
    assert [event for event, _ in await world.events()] == [wire.Deleted(comment)]


async def test_a_guide_who_deletes_settles_the_case(world: World) -> None:
    comment = await said(world)
    await do(world, reports.report, world.viewer, world.room, comment, "spam")
    await do(world, rooms.delete_comment, world.guide, world.room, comment)
    assert await listed(world) == []
    [case] = await listed(world, resolved=True)
    assert (case.reported.verdict, case.reported.resolved_by) == ("delete", world.guide.subject)


async def test_verdicts_deletions_and_reports_at_once_end(world: World) -> None:
    comment = await said(world)
    await do(world, reports.report, world.viewer, world.room, comment, "spam")
    await asyncio.gather(
        *(do(world, reports.resolve, world.ops, comment, "delete") for _ in range(3)),
        *(do(world, rooms.delete_comment, world.guide, world.room, comment) for _ in range(3)),
        *(do(world, reports.report, principal(), world.room, comment, "spam") for _ in range(3)),
    )
    assert [event for event, _ in await world.events()] == [wire.Deleted(comment)]


async def test_only_ops_of_the_brand_decides(world: World) -> None:
    comment = await said(world)
    await do(world, reports.report, world.viewer, world.room, comment, "spam")
    assert await refused(world, reports.resolve, world.guide, comment, "keep") == "forbidden"
    assert await refused(world, reports.resolve, world.stranger, comment, "keep") == "not_found"
    assert await refused(world, reports.resolve, world.ops, new_id(), "keep") == "not_found"


async def test_a_viewer_reports_over_the_socket(world: World) -> None:
    kernel = world.kernel
    comment = await said(world)
    async with gateway(kernel) as one, watching(one.url, kernel.keyring, world.room, world.viewer) as me:
        await me.send(wire.Report("r", comment, "fraud"))
        assert (await me.ack("r")).ok
        young = new_id()
        await me.send(wire.Report("s", young, "fraud"))
        answer = await me.ack("s")
        assert answer.error is not None
        assert (answer.error.code, answer.error.retry_after) == ("not_found", 2.0)
        row = Kept(young, new_id(), "路人", "viewer", "加我", 1_781_784_067_000)
        await do(world, comments.store, world.room, [row])
        await me.send(wire.Report("s", young, "fraud"))  # the same command again, once the comment is stored
        assert (await me.ack("s")).ok
    assert {case.comment.id for case in await listed(world)} == {comment, young}


def test_reasons_of_the_wire_are_a_closed_list() -> None:
    frame = {"t": "report", "id": "1", "comment": new_id(), "reason": "boring"}
    with pytest.raises(msgspec.ValidationError):
        wire.client_frames.decode(msgspec.json.encode(frame))
