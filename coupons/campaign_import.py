"""Campaigns from a list: new ones are made, drafts are changed, and what runs changes its stock only, if the list knows
what it is now. The same for ``nearcast campaigns import`` and for REST."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import campaigns
from coupons.campaign_file import CURRENT, FIELDS, Line
from coupons.tables import Campaign
from coupons.views import NewCampaign, StockChange
from kernel.errors import Refusal
from kernel.http import sound
from kernel.identity import Principal


class BadCampaign(NamedTuple):
    """A campaign that was refused: its line, its key if it has one, the field that is wrong if it is one, and why."""

    line: int
    key: str
    field: str
    reason: str

    def __str__(self) -> str:
        return (
            f"line {self.line}{f' ({self.key})' if self.key else ''}: {self.field and f'{self.field}: '}{self.reason}"
        )


@dataclass(slots=True)
class Report:
    """What an import did, or, of a dry run, would do."""

    read: int = 0
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    errors: list[BadCampaign] = field(default_factory=list)


class _Bad(Exception):
    def __init__(self, field: str, reason: str) -> None:
        self.field, self.reason = field, reason
        super().__init__(reason)


# Two lists of a brand take turns: in another order they would wait for each other's campaigns in a circle.
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended(:imports, 0))")


async def load(session: AsyncSession, who: Principal, lines: Iterable[Line], *, dry_run: bool = False) -> Report:
    """Load the good ones of ``lines`` as campaigns of ``who``'s brand; the report names the others.

    ``dry_run`` does the same work and takes it back, so that its report is no guess. Waits for another import of the
    brand, and finds what that made.
    """
    report = Report()
    seen: dict[str, int] = {}
    await session.execute(_ALONE, {"imports": f"nearcast:campaigns:{who.brand}"})
    attempt = await session.begin_nested()
    for line in lines:
        report.read += 1
        given = line.values.get("key")
        key = sound(given[:64]) if isinstance(given, str) else ""
        try:
            asked, current = _judge(line)
            assert asked.key is not None
            _require_new(seen.setdefault(asked.key, line.number), line)
            async with session.begin_nested():
                outcome = await _take(session, who, asked, current)
        except _Bad as bad:
            report.errors.append(BadCampaign(line.number, key, bad.field, bad.reason))
        except Refusal as refusal:
            named = ", ".join(refusal.fields.get("unknown", ()))
            reason = f"{refusal.message}{f' ({named})' if named else ''}"
            report.errors.append(BadCampaign(line.number, key, refusal.fields.get("field", ""), reason))
        else:
            setattr(report, outcome, getattr(report, outcome) + 1)
    await (attempt.rollback() if dry_run else attempt.commit())
    return report


def _require_new(earlier: int, line: Line) -> None:
    if earlier != line.number:
        raise _Bad("key", f"was already on line {earlier}")


def _judge(line: Line) -> tuple[NewCampaign, int | None]:
    """The campaign that ``line`` describes, and the stock it believes the present one to have."""
    if line.problem is not None:
        raise _Bad("", line.problem)
    if unknown := [name for name in line.values if name not in FIELDS]:
        raise _Bad(sound(unknown[0][:64]), "campaigns have no such field")
    values = dict(line.values)
    current = values.pop(CURRENT, None)
    try:
        asked = NewCampaign.model_validate(values)
        if current is not None:
            current = StockChange.model_validate({"current": current, "target": asked.stock}).current
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = sound(".".join(map(str, first["loc"])))
        raise _Bad(CURRENT if place == "current" else place, first["msg"]) from error
    if asked.key is None:
        raise _Bad("key", "is needed: a second import finds its campaigns by it")
    return asked, current


async def _take(session: AsyncSession, who: Principal, asked: NewCampaign, current: int | None) -> str:
    query = select(Campaign).where(Campaign.brand_id == who.brand, Campaign.key == asked.key)
    found = await session.scalar(query.with_for_update(key_share=True).execution_options(populate_existing=True))
    if found is None:
        await campaigns.create(session, who, asked.columns(), asked.store_codes)
        return "new"
    changed = await _differences(session, found, asked)
    if not changed:
        return "unchanged"
    if found.state == "draft":
        await campaigns.redraft(session, who, found.id, asked.columns(), asked.store_codes)
        return "updated"
    if fixed := sorted(set(changed) - {"stock"}):
        raise _Bad(fixed[0], f"is {changed[fixed[0]]} and stays so: the campaign is {found.state}")
    if found.state == "ended":
        raise _Bad("stock", "stays as it is: the campaign is ended")
    if current is None:
        raise _Bad(CURRENT, f"is needed to change the stock of a campaign that is {found.state}; it is {found.stock}")
    if current != found.stock or asked.stock < found.issued:
        raise _Bad("stock", f"was not changed: it is {found.stock} now, of which {found.issued} are issued")
    await campaigns.change_stock(session, who, found.id, current, asked.stock)
    return "updated"


async def _differences(session: AsyncSession, found: Campaign, asked: NewCampaign) -> dict[str, Any]:
    """What ``asked`` would change, and what it is now."""
    now = {name: getattr(found, name) for name in asked.columns()}
    stores = None if found.all_stores else (await campaigns.store_codes(session, [found])).get(found.id, [])
    wanted = None if asked.store_codes is None else sorted(set(asked.store_codes))
    changed = {name: now[name] for name, value in asked.columns().items() if value != now[name]}
    return changed | ({"store_codes": "|".join(stores or ["every store"])} if wanted != stores else {})
