"""At the till: a coupon is used exactly once, however often and from however many tills it is tried.

A redemption is a compare-and-set on the coupon's row, a row of its own and a ledger line, in one transaction. Locks are
taken in the order order, coupon, redemption. The till's key makes a retry find the same redemption.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from coupons import codes, orders, rules, stacking
from coupons.receipts import COUPON, USED, Used, store_of, used
from coupons.tables import Coupon, LedgerLine, Redemption
from coupons.terms import terms_of as _terms
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.ids import new_id


class Presented(NamedTuple):
    """What a clerk typed (``code``) or scanned (``qr``); exactly one of them."""

    code: str | None
    qr: str | None


@dataclass(frozen=True, slots=True)
class Sale:
    """A try to redeem: the till's key for it, what is bought, and when.

    ``order`` names the order at the store, ``order_fen`` is what it comes to before discounts. ``told_at`` is set where
    the till had no network ``at`` the time, and says so only now.
    """

    key: str
    at: datetime
    order_fen: int | None = None
    order: str | None = None
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Looked:
    """A usable coupon as the till sees it before using it. ``discount_fen`` is None where the order is too small."""

    title: str
    terms: str
    code: str
    viewer_name: str | None
    store_code: str
    store_name: str
    state: str
    valid_from: datetime
    valid_until: datetime
    threshold_fen: int
    discount_fen: int | None


_STANDING = text("SELECT at FROM redemptions WHERE coupon_id = :coupon AND reversed_at IS NULL")


def _in_hours(coupon: Row[Any], at: datetime) -> bool:
    return rules.usable_at(_terms(coupon), at.astimezone(ZoneInfo(coupon.timezone)).time())


def _since_issued(sale: Sale, coupon: Row[Any]) -> Sale:
    """``sale``; one that was told afterwards, by a till whose clock is a little behind, not before the coupon holds."""
    before = coupon.valid_from - sale.at
    late = sale.told_at is not None and timedelta() < before <= timedelta(seconds=codes.SKEW_SECONDS)
    return replace(sale, at=coupon.valid_from) if late else sale


def _read(presented: Presented, signer: codes.Signer) -> tuple[str, codes.Shown | None]:
    """The stored code of what was presented, and the QR code it came from, whose age is still to be judged."""
    if (presented.code is None) == (presented.qr is None):
        raise Refusal("invalid", "Give either code or qr.", field="code")
    if presented.qr is not None:
        shown = signer.read_coupon(presented.qr)
        return shown.code, shown
    return codes.parse(presented.code or ""), None


async def _coupon(session: AsyncSession, who: Principal, code: str) -> Row[Any]:
    row: Row[Any] | None = (
        await session.execute(COUPON.where(Coupon.code == code, Coupon.brand_id == who.brand))
    ).one_or_none()
    if row is None:
        raise Refusal("code_unknown")
    return row


async def _former(session: AsyncSession, store: UUID, code: str, sale: Sale) -> Used | None:
    """The redemption that this key made before. Refusal ``idempotency_mismatch`` if it was of something else."""
    of_key = USED.where(Redemption.store_id == store, Redemption.key == sale.key)
    row = (await session.execute(of_key)).one_or_none()
    if row is None:
        return None
    if (row.code, row.order_fen, row.order_ref) != (code, sale.order_fen, sale.order):
        raise Refusal("idempotency_mismatch")
    return used(row, replayed=True)


async def former(
    session: AsyncSession, who: Principal, presented: Presented, sale: Sale, signer: codes.Signer
) -> Used | None:
    """What this very request led to before, if it was carried out. Raises what ``use_up`` does for the code and key."""
    return await _former(session, store_of(who), _read(presented, signer)[0], sale)


async def redeem(
    session: AsyncSession,
    who: Principal,
    presented: Presented,
    order_fen: int | None,
    key: str,
    signer: codes.Signer,
    now: datetime,
    *,
    order: str | None = None,
) -> Used:
    """``use_up`` for a till that asks as it sells."""
    return await use_up(session, who, presented, Sale(key, now, order_fen, order), signer)


async def use_up(session: AsyncSession, who: Principal, presented: Presented, sale: Sale, signer: codes.Signer) -> Used:
    """Use a coupon up at the clerk's till. The same ``sale.key`` finds the same redemption, with ``replayed``.

    A sale with ``told_at`` is judged as of the time it was made: also a coupon that has expired since is used.

    Raises Refusal: ``code_mistyped``, ``code_unknown``, ``qr_expired``, ``wrong_store``, ``already_redeemed`` (with
    ``redeemed_at`` and ``store``), ``coupon_expired``, ``coupon_not_yet_valid``, ``coupon_voided``,
    ``below_threshold``, ``outside_hours``, ``stacking``, ``told_too_late``, ``idempotency_mismatch``, ``forbidden``,
    ``invalid``.
    """
    store = store_of(who)
    code, shown = _read(presented, signer)
    # Before any age: a till that retries for an hour, or tells it two days later, must still learn that it had worked.
    if (former := await _former(session, store, code, sale)) is not None:
        return former
    if sale.told_at is not None and sale.at < sale.told_at - rules.TELLABLE:
        raise Refusal("told_too_late")
    if shown is not None:
        shown.require_fresh(sale.at.timestamp())
    if sale.order is not None:
        await stacking.hold(session, store, sale.order)
        # Perhaps this very request, sent twice, has just let go of the order.
        if (former := await _former(session, store, code, sale)) is not None:
            return former
    coupon = await _coupon(session, who, code)
    sale = _since_issued(sale, coupon)
    off = await _off(session, who, coupon, store, sale)
    usable = ("issued",) if sale.told_at is None else ("issued", "expired")
    taken = await session.scalar(
        update(Coupon)
        .where(Coupon.id == coupon.id, Coupon.state.in_(usable))
        .where(Coupon.valid_from <= sale.at, Coupon.valid_until > sale.at)
        .values(state="redeemed", redeemed_at=sale.at)
        .returning(Coupon.id)
    )
    if taken is None:
        # Perhaps this very request, sent twice, has just won on another connection.
        if (former := await _former(session, store, code, sale)) is not None:
            return former
        # Otherwise the row as the winner left it says why; if it is free again, it was reversed just now.
        raise await _why_not(session, await _coupon(session, who, code), store, sale, otherwise="busy")
    await _record(session, who, coupon.id, store, sale, off)
    row = (await session.execute(USED.where(Redemption.store_id == store, Redemption.key == sale.key))).one()
    return used(row, replayed=False)


async def _off(session: AsyncSession, who: Principal, coupon: Row[Any], store: UUID, sale: Sale) -> int:
    """Fen that ``coupon`` takes off this sale; Refusal if it is another store's, or the order does not take it."""
    if coupon.store_id != store:
        raise _refusal(coupon, "wrong_store")
    house = await stacking.rules_of(session, who.brand)
    if sale.order is None and house.order_required:
        raise Refusal("invalid", "This brand wants to know the order of every coupon.", field="order")
    off = rules.discount(_terms(coupon), sale.order_fen)
    if off is None:
        raise await _why_not(session, coupon, store, sale, otherwise="below_threshold")
    if not _in_hours(coupon, sale.at):
        raise await _why_not(session, coupon, store, sale, otherwise="outside_hours")
    if sale.order is None:
        return off
    if sale.order_fen is None:
        raise Refusal("invalid", "Say what the order comes to.", field="order_fen")
    day = orders.day_around(sale.at, ZoneInfo(coupon.timezone))
    fitting = await stacking.fits(session, house, store, sale.order, day, coupon.kind, off, sale.order_fen)
    if fitting is None:
        raise await _why_not(session, coupon, store, sale, otherwise="stacking")
    return fitting


async def _record(
    session: AsyncSession, who: Principal, coupon: UUID, store: UUID, sale: Sale, discount_fen: int
) -> None:
    redemption = new_id()
    recorded = await session.scalar(
        upsert(Redemption)
        .values(
            id=redemption,
            coupon_id=coupon,
            store_id=store,
            clerk_id=who.subject,
            key=sale.key,
            order_ref=sale.order,
            order_fen=sale.order_fen,
            discount_fen=discount_fen,
            at=sale.at,
            told_at=sale.told_at,
        )
        .on_conflict_do_nothing(index_elements=["store_id", "key"])
        .returning(Redemption.id)
    )
    if recorded is None:  # the key was used for another coupon at this very moment; ours stays unused
        raise Refusal("idempotency_mismatch")
    line = {"coupon_id": coupon, "transition": "redeem", "actor": who.subject, "redemption_id": redemption}
    await session.execute(insert(LedgerLine).values(line | {"at": sale.at, "told_at": sale.told_at}))


def _unusable(coupon: Row[Any], store: UUID, sale: Sale) -> str | None:
    # The sweep has been there since; what counts is whether it was valid when the till used it.
    late = sale.told_at is not None and coupon.state == "expired"
    return rules.unusable(
        "issued" if late else coupon.state,
        same_store=coupon.store_id == store,
        valid_from=coupon.valid_from,
        valid_until=coupon.valid_until,
        now=sale.at,
    )


def _refusal(coupon: Row[Any], reason: str, redeemed_at: datetime | None = None) -> Refusal:
    place = {"code": coupon.store_code, "name": coupon.store_name}
    match reason:
        case "wrong_store":
            return Refusal(reason, f"This coupon belongs to the store {coupon.store_name}.", store=place)
        case "already_redeemed" if redeemed_at is not None:
            return Refusal(reason, redeemed_at=redeemed_at.isoformat(), store=place)
        case "coupon_not_yet_valid":
            return Refusal(reason, valid_from=coupon.valid_from.isoformat())
        case "below_threshold":
            return Refusal(reason, threshold_fen=coupon.threshold_fen)
        case "outside_hours":
            begin, end = f"{coupon.usable_from:%H:%M}", f"{coupon.usable_until:%H:%M}"
            sentence = f"This coupon can be used from {begin} to {end}."
            return Refusal(reason, sentence, usable_from=begin, usable_until=end)
        case "busy":
            return Refusal(reason, retry_after=1)
    return Refusal(reason)


async def _why_not(session: AsyncSession, coupon: Row[Any], store: UUID, sale: Sale, *, otherwise: str) -> Refusal:
    """Why ``coupon`` cannot be used; ``otherwise`` if its row gives no reason."""
    at = (await session.execute(_STANDING, {"coupon": coupon.id})).scalar_one_or_none()
    return _refusal(coupon, _unusable(coupon, store, sale) or otherwise, at)


async def look(
    session: AsyncSession,
    who: Principal,
    presented: Presented,
    order_fen: int | None,
    signer: codes.Signer,
    now: datetime,
) -> Looked:
    """What a code is, without using it. Raises the Refusal that ``use_up`` would, but for ``below_threshold``."""
    store = store_of(who)
    code, shown = _read(presented, signer)
    if shown is not None:
        shown.require_fresh(now.timestamp())
    coupon = await _coupon(session, who, code)
    asked = Sale("", now, order_fen)
    if _unusable(coupon, store, asked) is not None:
        raise await _why_not(session, coupon, store, asked, otherwise="busy")
    if not _in_hours(coupon, now):
        raise _refusal(coupon, "outside_hours")
    return Looked(
        title=coupon.title,
        terms=rules.describe(_terms(coupon)),
        code=codes.display(coupon.code),
        viewer_name=coupon.viewer_name,
        store_code=coupon.store_code,
        store_name=coupon.store_name,
        state=coupon.state,
        valid_from=coupon.valid_from,
        valid_until=coupon.valid_until,
        threshold_fen=coupon.threshold_fen,
        discount_fen=rules.discount(_terms(coupon), order_fen),
    )


async def reverse(session: AsyncSession, who: Principal, redemption: UUID, now: datetime) -> Used:
    """Take a redemption of this store back within an hour; the coupon can be used again while it is valid.

    It no longer is if it has expired since, or its owner was erased: ``coupon_now`` says so.

    Reversing it again answers the same. Raises Refusal: ``not_found``, ``wrong_store``, ``reversal_too_late``.
    """
    store = store_of(who)
    query = select(Coupon.id, Coupon.brand_id).join(Redemption, Redemption.coupon_id == Coupon.id)
    coupon = (await session.execute(query.where(Redemption.id == redemption).with_for_update(of=Coupon))).one_or_none()
    if coupon is None or coupon.brand_id != who.brand:
        raise Refusal("not_found", what=str(redemption))
    found = await session.get_one(Redemption, redemption, populate_existing=True)
    if found.store_id != store:
        raise Refusal("wrong_store", "Only the store that redeemed it can take it back.")
    now = max(now, found.at)  # a till's clock may be ahead: nothing is taken back before it was made
    if found.reversed_at is None:
        if now > found.at + rules.REVERSIBLE:
            raise Refusal("reversal_too_late", redeemed_at=found.at.isoformat())
        await session.execute(
            update(Redemption).where(Redemption.id == redemption).values(reversed_at=now, reversed_by=who.subject)
        )
        await session.execute(
            update(Coupon)
            .where(Coupon.id == coupon.id, Coupon.state == "redeemed")
            .values(state="issued", redeemed_at=None)
        )
        await session.execute(
            insert(LedgerLine).values(
                coupon_id=coupon.id, transition="reverse", at=now, actor=who.subject, redemption_id=redemption
            )
        )
    return used((await session.execute(USED.where(Redemption.id == redemption))).one(), replayed=False)
