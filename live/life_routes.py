"""REST for the life of a room: its plan, its reminders, its pauses, and what remains of it."""

from uuid import UUID

from fastapi import APIRouter

from kernel.http import Anyone, GuideOrOps, InKernel, InSession, refusals
from kernel.postgres import transaction
from live import figures, listing, reminders, rooms, views
from live.life import Plan
from live.summary import summary

router = APIRouter()

_SIGNED_IN = ("token_missing", "token_invalid", "token_expired")
_COMMAND = (*_SIGNED_IN, "forbidden", "not_found", "invalid")


@router.patch(
    "/rooms/{room}",
    tags=["guide"],
    summary="Change the plan",
    responses=refusals(*_COMMAND, "room_ended", "room_state"),
)
async def change_room(room: UUID, body: views.RoomPlan, session: InSession, who: GuideOrOps) -> views.RoomView:
    """Another title or time for a room that has not started. Whoever waits in it is told."""
    plan: Plan = {}
    if "title" in body.model_fields_set:
        plan["title"] = body.title
    if "scheduled_at" in body.model_fields_set:
        plan["scheduled_at"] = body.scheduled_at
    await rooms.reschedule(session, who, room, plan)
    return views.room_view(await listing.one(session, who.brand, room), 0)


@router.post(
    "/rooms/{room}/pause",
    tags=["guide"],
    summary="Pause",
    status_code=204,
    responses=refusals(*_COMMAND, "room_ended", "room_not_live"),
)
async def pause(room: UUID, session: InSession, who: GuideOrOps) -> None:
    """Back soon: the room stays live and goes on with `start`. Pausing twice is the same as once."""
    await rooms.pause(session, who, room)


@router.put(
    "/rooms/{room}/reminder",
    tags=["rooms"],
    summary="Remind me",
    status_code=204,
    responses=refusals(*_COMMAND, "room_ended", "room_state"),
)
async def remind_me(room: UUID, session: InSession, who: Anyone) -> None:
    """Viewers: tell me when this scheduled room is about to start. Asking twice is the same as once."""
    await reminders.subscribe(session, who, room)


@router.delete(
    "/rooms/{room}/reminder", tags=["rooms"], summary="Do not remind me", status_code=204, responses=refusals(*_COMMAND)
)
async def do_not_remind_me(room: UUID, session: InSession, who: Anyone) -> None:
    """Takes the wish back, unless the reminder was sent already."""
    await reminders.unsubscribe(session, who, room)


@router.get(
    "/rooms/{room}/summary", tags=["guide"], summary="What remains", responses=refusals(*_COMMAND, "room_state")
)
async def get_summary(room: UUID, kernel: InKernel, who: GuideOrOps) -> views.Summary:
    """A room that has ended, in figures, right after its end and for ever. Its last comments are kept, and so counted,
    a moment later."""
    # What the worker kept is at most a few seconds older than what Redis says.
    shown = (await figures.of_rooms(kernel.redis, [room])).get(room)
    async with transaction(kernel.sessions) as session:
        return views.summary_view(await summary(session, who, room, shown))
