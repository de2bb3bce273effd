"""What REST takes and gives for moderation."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from kernel.http import PLAIN, Body
from live.muting import MAX_MUTE
from live.reports import Case, Verdict
from live.sanctions import EVERYWHERE, Scope, Standing
from live.views import KeptComment, comment_view
from live.wire import MAX_ALLOWED, Reason
from live.word_lists import MAX_WORD, MAX_WORDS, Words

_ID = "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


# ---- the room ------------------------------------------------------------------------------------------------------


class Hush(Body):
    """Whether the room is muted, and who may comment all the same, besides its staff."""

    on: bool = Field(examples=[True])
    allow: Annotated[list[UUID], Field(max_length=MAX_ALLOWED)] = Field([], examples=[[_ID]])


# ---- mutes ---------------------------------------------------------------------------------------------------------


class MuteInBrand(Body):
    """Whose comments are refused in all rooms of the brand, and for how long; 0 lifts the mute."""

    viewer: UUID = Field(examples=[_ID])
    seconds: int = Field(ge=0, le=MAX_MUTE, examples=[604_800])


class MuteView(BaseModel):
    """A mute that holds; ``room`` is null for one that holds in all rooms of the brand."""

    viewer: UUID = Field(examples=[_ID])
    name: str | None = Field(examples=["小林"])
    scope: Scope
    room: UUID | None
    until: datetime
    by: UUID = Field(description="The guide or ops who muted", examples=[_ID])
    at: datetime


def mute_view(muted: Standing) -> MuteView:
    """``muted`` for a list."""
    everywhere = muted.room == EVERYWHERE
    return MuteView(
        viewer=muted.viewer,
        name=muted.name,
        scope="brand" if everywhere else "room",
        room=None if everywhere else muted.room,
        until=muted.until,
        by=muted.by,
        at=muted.at,
    )


# ---- reports -------------------------------------------------------------------------------------------------------

CaseState = Literal["open", "resolved"]


class NewReport(Body):
    """The comment that is wrong, and why."""

    comment: UUID = Field(examples=[_ID])
    reason: Reason = Field(examples=["spam"])


class Resolution(Body):
    """What becomes of a reported comment."""

    verdict: Verdict = Field(examples=["delete"])


class CaseView(BaseModel):
    """A reported comment. ``reports``: by how many viewers; ``reasons``: how many gave which."""

    comment: KeptComment
    room: UUID = Field(examples=[_ID])
    room_title: str = Field(examples=["周五新品试喝"])
    reports: int = Field(examples=[3])
    reasons: dict[Reason, int] = Field(examples=[{"abuse": 1, "spam": 2}])
    first_at: datetime
    last_at: datetime
    verdict: Verdict | None
    resolved_at: datetime | None
    resolved_by: UUID | None


def case_view(case: Case) -> CaseView:
    """``case`` for the review list."""
    return CaseView.model_validate(
        {
            "comment": comment_view(case.comment),
            "room": case.reported.room_id,
            "room_title": case.room_title,
            "reports": case.reported.reports,
            "reasons": case.reasons,
            "first_at": case.reported.first_at,
            "last_at": case.reported.last_at,
            "verdict": case.reported.verdict,
            "resolved_at": case.reported.resolved_at,
            "resolved_by": case.reported.resolved_by,
        }
    )


# ---- words ---------------------------------------------------------------------------------------------------------

Word = Annotated[str, StringConstraints(min_length=1, max_length=MAX_WORD, pattern=PLAIN)]


class NewWords(Body):
    """The words that no comment may contain: found whatever the case, width, padding or script."""

    words: Annotated[list[Word], Field(max_length=MAX_WORDS)] = Field(examples=[["加微信", "刷单"]])


class WordsView(BaseModel):
    """The brand's own list; none, and ``own`` false, while the shipped one holds."""

    own: bool = Field(examples=[True])
    words: list[str] = Field(examples=[["加微信", "刷单"]])
    changed_at: datetime | None


def words_view(words: Words | None) -> WordsView:
    """The brand's list."""
    if words is None:
        return WordsView(own=False, words=[], changed_at=None)
    return WordsView(own=True, words=list(words.words), changed_at=words.changed_at)
