"""What coupons write to the outbox is what the room's socket can read."""

import msgspec
import pytest

from coupons import cards
from kernel.ids import new_id
from live import wire


@pytest.mark.parametrize("name", ["DropCard", "CouponCard"])
def test_cards_have_the_sockets_fields(name: str) -> None:
    ours, theirs = (msgspec.structs.fields(getattr(module, name)) for module in (cards, wire))
    assert {(field.name, field.required) for field in ours} == {(field.name, field.required) for field in theirs}


def test_a_granted_coupon_reads_as_the_sockets_card() -> None:
    card = cards.CouponCard(
        new_id(), "券", "满100减20", "A-B", "S1", "店", 1, valid_from=0, distance_m=500, drop=new_id()
    )
    event = msgspec.json.encode(cards.Issued(new_id(), [cards.Grant(new_id(), card)]))
    coupon = msgspec.json.encode(msgspec.json.decode(event)["grants"][0]["coupon"])
    read = msgspec.json.decode(coupon, type=wire.CouponCard)
    assert msgspec.structs.asdict(read) == msgspec.structs.asdict(card)


def test_a_drops_events_read_as_the_sockets_events() -> None:
    drop = cards.DropCard(new_id(), "push", "券", "满100减20", 10, 9, 1, 2, 3000)
    opened = msgspec.json.decode(msgspec.json.encode(cards.DropOpened(drop)))["drop"]
    assert msgspec.structs.asdict(msgspec.convert(opened, wire.DropCard)) == msgspec.structs.asdict(drop)
    for ours, theirs in (
        (cards.DropEnded(drop.id, "time"), wire.DropEnded),
        (cards.DropStock(drop.id, 3), wire.DropStock),
    ):
        read = msgspec.json.decode(msgspec.json.encode(ours), type=theirs)
        assert msgspec.structs.asdict(read) == msgspec.structs.asdict(ours)
        assert msgspec.json.encode(read) == msgspec.json.encode(ours)
