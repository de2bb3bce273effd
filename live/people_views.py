"""What REST takes and gives for who is in a room, and who may not be."""

from uuid import UUID

from pydantic import BaseModel, Field

from kernel.http import Body
from live import moderation_views
from live.moderation_views import MuteView
from live.roster import Roster
from live.sanctions import MAX_SECONDS, Scope, Standing

_ID = "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


class KickViewer(Body):
    """Whose sockets are closed."""

    viewer: UUID = Field(examples=[_ID])


class BanInBrand(Body):
    """Who may not be in any room of the brand, and for how long; 0 lifts the ban."""

    viewer: UUID = Field(examples=[_ID])
    seconds: int = Field(ge=0, le=MAX_SECONDS, examples=[604_800])


class BanViewer(BanInBrand):
    """Who may not be in the room, or in any of the brand, and for how long; 0 lifts the ban."""

    scope: Scope = Field("room", description="`brand`: all rooms of the brand, those to come included")


class BanView(MuteView):
    """A ban that holds; ``room`` is null for one that holds in all rooms of the brand."""

    by: UUID = Field(description="The guide or ops who banned", examples=[_ID])


def ban_view(banned: Standing) -> BanView:
    """``banned`` for a list."""
    return BanView.model_validate(moderation_views.mute_view(banned).model_dump())


class Present(BaseModel):
    """Somebody who is in the room."""

    id: UUID = Field(examples=[_ID])
    name: str = Field(examples=["小林"])
    tier: int = Field(examples=[2])


class RosterView(BaseModel):
    """Who is in a room, staff left out: everybody if ``complete``, else a fair sample of at most 50."""

    total: int = Field(description="How many are there, listed or not", examples=[412])
    complete: bool = Field(examples=[False])
    viewers: list[Present]


def roster_view(roster: Roster) -> RosterView:
    """``roster`` as REST gives it."""
    viewers = [Present(id=one.id, name=one.name, tier=one.tier) for one in roster.viewers]
    return RosterView(total=roster.total, complete=roster.complete, viewers=viewers)
