"""REST: funnel and lift side by side, as JSON for pages and as CSV for spreadsheets."""

from dataclasses import asdict, dataclass
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from coupons import funnel, sheet
from coupons import lift as lifts
from coupons.edge import SIGNED_IN
from kernel.http import InSession, Ops, Page, refusals

router = APIRouter(tags=["figures"])

COLUMNS = (
    "in_room", "in_range", "offered", "held_out", "issued", "seen", "visited", "redeemed",
    "coupons", "coupons_redeemed",
)  # fmt: skip
_COMPARED = ("offered", "offered_came", "held_out", "held_out_came")
_ENDS = ("lift_points", "low_points", "high_points")


class LiftView(BaseModel):
    """How many more points of the offered came to a store than of those held out, with its 95 % interval."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "offered": 380,
                    "offered_came": 61,
                    "held_out": 20,
                    "held_out_came": 1,
                    "lift_points": 11.1,
                    "low_points": -8.2,
                    "high_points": 15.9,
                }
            ]
        }
    )

    offered: int = Field(description="Pairs of viewer and campaign, also where it was sold out then")
    offered_came: int
    held_out: int
    held_out_came: int
    lift_points: float
    low_points: float
    high_points: float

    @classmethod
    def of(cls, found: lifts.Lift) -> Self | None:
        """Points with one decimal; None where there is nothing to compare."""
        if (interval := found.interval) is None:
            return None
        counts = {name: getattr(found, name) for name in _COMPARED}
        return cls(**counts, **{name: round(100 * end, 1) for name, end in zip(_ENDS, interval, strict=True)})


@dataclass(frozen=True, kw_only=True)
class ConversionRow(funnel.FunnelRow):
    """The funnel of one room, store, guide or drop, and its lift where somebody was held out."""

    lift: LiftView | None

    @classmethod
    def of_both(cls, row: funnel.FunnelRow, found: lifts.Lift | None) -> Self:
        """From the use cases' answers."""
        return cls(**asdict(row), lift=None if found is None else LiftView.of(found))


@router.get(
    "/ops/conversion",
    summary="Funnel and lift",
    response_model=Page[ConversionRow],
    responses=refusals(*SIGNED_IN, "invalid")
    | {200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "As JSON or CSV"}},
)
async def ops_conversion(
    session: InSession,
    who: Ops,
    by: Annotated[funnel.By, Query()] = "room",
    form: Annotated[Literal["csv", "json"], Query(alias="format")] = "json",
    limit: Annotated[int, Query(ge=1, le=funnel.MOST, description="Of JSON")] = 200,
) -> Page[ConversionRow] | Response:
    """By room, store, guide or drop, most coupons first: as many as asked for, or as CSV all of them."""
    found = await funnel.by(session, who.brand, by, limit if form == "json" else funnel.EVERY)
    compared = await lifts.by(session, who.brand, by, [row.id for row in found])
    rows = [ConversionRow.of_both(row, compared.get(row.id)) for row in found]
    if form == "json":
        return Page(items=rows)
    headers = {"Content-Disposition": f'attachment; filename="conversion-{by}.csv"', "Cache-Control": "no-store"}
    return Response(_as_csv(by, rows), media_type="text/csv; charset=utf-8", headers=headers)


def _as_csv(by: str, rows: list[ConversionRow]) -> str:
    head = (by, *COLUMNS, "amount_yuan", "discount_yuan", *(f"compared_{name}" for name in _COMPARED), *_ENDS, "id")
    return sheet.as_csv([head, *(_line(row) for row in rows)])


def _line(row: ConversionRow) -> list[object]:
    figures = [getattr(row, name) for name in COLUMNS]
    compared = [getattr(row.lift, name, None) for name in (*_COMPARED, *_ENDS)]
    return [row.name, *figures, sheet.yuan(row.amount_fen), sheet.yuan(row.discount_fen), *compared, str(row.id)]
