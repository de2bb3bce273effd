"""Who asked is told once before the coupon expires, by day; nobody else is, and nobody for a coupon that is used."""

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from world import World

from app.notifier import CouponNotifier
from coupons import reminders
from coupons.push import run_push
from coupons.reminders import Expiring
from guides.notices import Notices, Outcome
from kernel.clock import now
from kernel.errors import Refusal
from kernel.identity import Principal
from kernel.postgres import transaction


class Messenger:
    """Answers as told, and remembers; None: nobody knows."""

    def __init__(self, *answers: Outcome | None) -> None:
        self.answers = list(answers)
        self.told: list[Expiring] = []

    async def remind(self, expiring: Sequence[Expiring]) -> AsyncGenerator[tuple[Expiring, Outcome]]:
        for one in expiring:
            self.told.append(one)
            answer = self.answers.pop(0) if self.answers else "sent"
            if answer is not None:
                yield one, answer


async def coupon(world: World) -> tuple[Principal, UUID]:
    """Somebody's coupon that is over in three days; at the brand it is about noon."""
    away = 12 - now().hour
    await world.execute("UPDATE brands SET timezone = :zone", zone=f"Etc/GMT{-away:+d}" if away else "Etc/GMT")
    (viewer,) = await world.viewers(1)
    drop = await world.drop(await world.campaign(), "push", 1)
    await run_push(world.kernel.sessions, drop)
    mine = await world.scalar("SELECT id FROM coupons WHERE drop_id = :drop", drop=drop)
    await world.execute("UPDATE coupons SET valid_until = now() + interval '3 days' WHERE id = :id", id=mine)
    return viewer, mine


async def subscribe(world: World, who: Principal, coupon: UUID) -> None:
    async with transaction(world.kernel.sessions) as session:
        await reminders.subscribe(session, who, coupon, now())


async def a_day_before(world: World) -> None:
    await world.execute("UPDATE coupon_reminders SET due_at = now() - interval '1 minute', taken_until = NULL")


async def test_whoever_asked_is_told_once_a_day_before(world: World) -> None:
    viewer, mine = await coupon(world)
    await subscribe(world, viewer, mine)
    await subscribe(world, viewer, mine)
    due = await world.scalar(
        "SELECT due_at - (SELECT valid_until FROM coupons WHERE id = coupon_id) FROM coupon_reminders"
    )
    assert due == -timedelta(days=1)
    messenger = Messenger()
    assert await reminders.send_due(world.kernel.sessions, messenger) == 0 and messenger.told == []
    await a_day_before(world)
    assert await reminders.send_due(world.kernel.sessions, messenger) == 1
    assert await reminders.send_due(world.kernel.sessions, messenger) == 0
    [told] = messenger.told
    assert (told.coupon, told.viewer, told.store) == (mine, viewer.subject, "S1店")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE coupons SET state = 'voided'",
        "UPDATE coupons SET valid_until = now() - interval '1 second'",
        "UPDATE coupon_reminders SET due_at = now() - interval '25 hours'",
        "night",
        "UPDATE brands SET quiet_from = '11:00', quiet_until = '14:00'",
        "UPDATE brands SET quiet_from = '14:00', quiet_until = '13:30'",
        "DELETE FROM coupon_reminders",
    ],
    ids=["withdrawn", "over", "too late", "night", "quiet at noon", "nearly always quiet", "changed their mind"],
)
async def test_nobody_is_told_of_what_is_used_or_over_or_at_night(world: World, change: str) -> None:
    viewer, mine = await coupon(world)
    await subscribe(world, viewer, mine)
    await a_day_before(world)
    if change.startswith("DELETE"):
        async with transaction(world.kernel.sessions) as session:
            await reminders.unsubscribe(session, viewer, mine)
    elif change == "night":
        night = now().hour - 3  # Etc/GMT+5 is five hours behind
        zone = f"Etc/GMT{night if night <= 12 else night - 24:+d}"
        await world.execute("UPDATE brands SET timezone = :zone", zone=zone if night else "Etc/GMT")
    else:
        await world.execute(change)
    assert await reminders.send_due(world.kernel.sessions, Messenger()) == 0


async def test_one_who_refused_is_not_asked_again_and_one_not_reached_is(world: World) -> None:
    viewer, mine = await coupon(world)
    await subscribe(world, viewer, mine)
    messenger = Messenger("later", None, "refused")
    for settled in (0, 0, 1, 0):
        await a_day_before(world)
        assert await reminders.send_due(world.kernel.sessions, messenger) == settled
    assert len(messenger.told) == 3
    outcome = await world.execute("SELECT outcome, attempts FROM coupon_reminders")
    assert outcome == [("refused", 2)]


async def test_a_message_whose_fate_nobody_knows_is_sent_three_times_at_most(world: World) -> None:
    viewer, mine = await coupon(world)
    await subscribe(world, viewer, mine)
    messenger = Messenger(*[None] * 9)
    for _ in range(5):
        await a_day_before(world)
        await reminders.send_due(world.kernel.sessions, messenger)
    assert len(messenger.told) == reminders.MAX_ATTEMPTS


async def test_late_askers_are_told_half_way_and_others_refused(world: World) -> None:
    viewer, mine = await coupon(world)
    (stranger,) = await world.viewers(1)
    await world.execute("UPDATE coupons SET valid_until = now() + interval '4 hours'")
    await subscribe(world, viewer, mine)
    left = await world.scalar("SELECT due_at - now() FROM coupon_reminders")
    assert timedelta(minutes=110) < left <= timedelta(minutes=120)
    with pytest.raises(Refusal, match="not_found"):
        await subscribe(world, stranger, mine)
    await world.execute("UPDATE coupons SET state = 'voided'")
    with pytest.raises(Refusal, match="coupon_voided"):
        await subscribe(world, viewer, mine)


async def test_the_template_says_the_last_minute_of_the_last_day(world: World) -> None:
    viewer, mine = await coupon(world)
    midnight = now().replace(year=2026, month=6, day=18, hour=16, minute=0, second=0, microsecond=0)
    settings = world.kernel.settings.model_copy(update={"wechat_app_id": "wx1"})
    notifier = CouponNotifier(settings, Notices(settings, world.kernel.sessions, "TPL"))
    notice = notifier._notice(Expiring(mine, viewer.subject, "满100减20券", midnight, "静安寺店", "Asia/Shanghai"))
    assert notice.member == viewer.subject and notice.page == f"pages/coupon/index?coupon={mine}"
    assert notice.fields == {"thing1": "满100减20券", "time2": "2026-06-18 23:59", "thing3": "静安寺店"}
