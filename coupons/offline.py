"""What a till redeemed while it had no network, told afterwards.

The till had checked the QR code's signature and age by the public key alone. Here both are checked again, at the time
that the till claims; the QR code carries its own time, so the claim can be off by a minute at most. Everything else
(who came first, which store, what the order needs) is decided now, as if the till had asked then.
"""

from dataclasses import dataclass
from datetime import timedelta

from prometheus_client import Counter
from sqlalchemy.exc import DBAPIError

from coupons import codes
from coupons.receipts import Used
from coupons.redemption import Presented, Sale, use_up
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import Sessions, transaction

SKEW = timedelta(seconds=60)
"""How far ahead of ours a till's clock may be."""
TOLD = Counter("nearcast_till_told", "Redemptions of tills without a network, by what became of them", ["outcome"])
for _outcome in ("redeemed", "replayed", "already_redeemed"):
    TOLD.labels(_outcome)  # there from the start, so that a rate sees the first of them

_LOST_A_RACE = ("40001", "40P01")


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a redemption that was told: exactly one of the two is there."""

    key: str
    used: Used | None = None
    refusal: Refusal | None = None


async def tell(sessions: Sessions, who: Principal, sale: Sale, qr: str, signer: codes.Signer) -> Told:
    """Redeem what the till redeemed, in a transaction of its own; refusals are answers here.

    Beside what ``use_up`` refuses: ``invalid`` for a time that has not come yet.
    """
    told = await _tell(sessions, who, sale, qr, signer)
    if told.refusal is not None:
        outcome = told.refusal.code
    else:
        outcome = "replayed" if told.used is not None and told.used.replayed else "redeemed"
    TOLD.labels(outcome).inc()
    return told


async def _tell(sessions: Sessions, who: Principal, sale: Sale, qr: str, signer: codes.Signer) -> Told:
    try:
        _require_past(sale)
        async with transaction(sessions) as session:
            return Told(sale.key, await use_up(session, who, Presented(None, qr), sale, signer))
    except Refusal as refusal:
        return Told(sale.key, refusal=refusal)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) not in _LOST_A_RACE:
            raise  # the rest would fail as well; what was told stays told, and the till tells all of it again
        return Told(sale.key, refusal=Refusal("busy", retry_after=1))


def _require_past(sale: Sale) -> None:
    if sale.told_at is None:
        raise TypeError("a sale without the time it was told was not offline")
    if sale.at > sale.told_at + SKEW:
        raise Refusal("invalid", "This time has not come yet.", field="at")
