"""Drops that are announced ahead: nobody claims before their turn, turns are spread, and times are signed."""

import json
from collections import Counter
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from world import World

from coupons import drops, rules
from coupons.cards import CouponCard, DropOpened
from coupons.codes import Signer, opening_is_ours
from coupons.issuing import Issuer
from kernel.clock import milliseconds
from kernel.errors import Refusal
from kernel.ids import new_id
from kernel.postgres import transaction

DROP, VIEWER = UUID("019c2f6e-1a2b-7c3d-8e4f-000000000007"), UUID("019c2f6e-1a2b-7c3d-8e4f-000000000003")


def test_turns_are_bounded_spread_and_always_the_same() -> None:
    drop, viewers = new_id(), [new_id() for _ in range(10_000)]
    turns = [rules.turn_of(drop, viewer, drops.SPREAD_MS) // timedelta(milliseconds=1) for viewer in viewers]
    assert min(turns) >= 0 and max(turns) <= drops.SPREAD_MS
    assert turns == [rules.turn_of(drop, viewer, drops.SPREAD_MS) // timedelta(milliseconds=1) for viewer in viewers]
    # Some 20 a millisecond; identifiers made one after the other must not come one after the other.
    assert max(Counter(turns).values()) < 60
    assert all(800 < count < 1200 for count in Counter(turn * 10 // (drops.SPREAD_MS + 1) for turn in turns).values())
    assert rules.turn_of(drop, viewers[0], 0) == timedelta()
    assert rules.turn_of(DROP, VIEWER, 500) == timedelta(milliseconds=387)  # as tests/browser/opening.test.js


def test_an_opening_is_signed_and_a_forged_one_is_found_out(signer: Signer) -> None:
    key = Ed25519PublicKey.from_public_bytes(signer.public_key)
    times = (1781784060000, 1781784360000, 500)
    signed = signer.sign_opening(DROP, *times)
    assert signed.startswith("Y/+kbU8xewxGKz")  # as tests/browser/opening.test.js
    assert opening_is_ours(key, DROP, *times, signed)
    for forged in ((times[0] - 1, *times[1:]), (times[0], times[1] + 1, 500), (*times[:2], 0)):
        assert not opening_is_ours(key, DROP, *forged, signed)
    assert not opening_is_ours(key, VIEWER, *times, signed)
    assert not opening_is_ours(key, DROP, *times, Signer(b"\x08" * 32).sign_opening(DROP, *times))
    assert not opening_is_ours(key, DROP, *times, "no signature")


async def test_an_early_claim_is_refused_and_told_when_its_turn_comes(
    world: World, issuer: Issuer, signer: Signer
) -> None:
    (viewer,) = await world.viewers(1)
    campaign = await world.campaign(per_viewer=2)
    async with transaction(world.kernel.sessions) as session:
        ahead = await drops.open_drop(session, world.guide, world.room, campaign, "claim", 5, 300, 60, signer)
        at_once = await drops.open_drop(session, world.guide, world.room, campaign, "claim", 5, 300, 0, signer)
    assert (ahead.spread, at_once.spread) == (drops.SPREAD_MS, 0)
    told = await world.scalar("SELECT payload FROM outbox WHERE topic = 'coupons.drop_opened' ORDER BY id LIMIT 1")
    card = msgspec.json.decode(bytes(told), type=DropOpened).drop
    key = Ed25519PublicKey.from_public_bytes(signer.public_key)
    assert opening_is_ours(key, card.id, card.opens_at, card.ends_at, card.spread, str(card.signature))
    assert json.loads(bytes(told))["drop"]["spread"] == drops.SPREAD_MS

    turn = rules.turn_of(ahead.id, viewer.subject, drops.SPREAD_MS)
    with pytest.raises(Refusal) as refused:
        await issuer.claim(viewer, world.room, ahead.id, "k")
    assert refused.value.code == "not_started"
    # What the viewer is told is what the row says: a card that says otherwise opens nothing.
    opens_at = await world.scalar("SELECT opens_at FROM drops WHERE id = :id", id=ahead.id)
    assert refused.value.fields["opens_at"] == milliseconds(opens_at + turn)
    assert 0 < (refused.value.retry_after or 0) <= 61
    assert isinstance(await issuer.claim(viewer, world.room, at_once.id, "k"), CouponCard)

    # The drop has opened, but it is this viewer's turn later.
    await world.execute("UPDATE drops SET opens_at = now(), spread_ms = 32000 WHERE id = :id", id=ahead.id)
    late = next(
        v for v in await world.viewers(20) if rules.turn_of(ahead.id, v.subject, 32_000) > timedelta(seconds=20)
    )
    with pytest.raises(Refusal, match="not_started") as refused:
        await issuer.claim(late, world.room, ahead.id, "k")
    assert 10 < (refused.value.retry_after or 0) <= 32
    await world.execute("UPDATE drops SET opens_at = now() - interval '33 s' WHERE id = :id", id=ahead.id)
    assert isinstance(await issuer.claim(late, world.room, ahead.id, "k"), CouponCard)
