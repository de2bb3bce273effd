"""``live.ports.Messenger``, and that of coupons, on WeChat's subscribe messages."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from zoneinfo import ZoneInfo

from coupons.reminders import Expiring
from guides.notices import Notice, Notices
from kernel.settings import Settings
from live.ports import Outcome, Reminder

_THING = 20
"""Characters that WeChat allows in a field of this kind; one more and the whole message is refused."""


class Notifier:
    """Puts what is to be said into the brand's template."""

    def __init__(self, settings: Settings, notices: Notices) -> None:
        self._notices = notices
        self._fields = settings.wechat_reminder_fields
        self._page = settings.wechat_reminder_page

    async def remind(self, reminders: Sequence[Reminder]) -> AsyncGenerator[tuple[Reminder, Outcome]]:
        """See ``live.ports.Messenger``."""
        async with aclosing(self._notices.send([self._notice(one) for one in reminders])) as sending:
            async for place, outcome in sending:
                yield reminders[place], outcome

    def _notice(self, reminder: Reminder) -> Notice:
        said = (
            _short(reminder.title),
            reminder.at.astimezone(ZoneInfo(reminder.zone)).strftime("%Y-%m-%d %H:%M"),
            _short(reminder.guide),
        )
        page = self._page.replace("{room}", str(reminder.room))
        return Notice(reminder.viewer, dict(zip(self._fields, said, strict=True)), page)


class CouponNotifier:
    """Puts coupons that expire into the brand's template."""

    def __init__(self, settings: Settings, notices: Notices) -> None:
        self._notices = notices
        self._fields = settings.wechat_expiry_fields
        self._page = settings.wechat_expiry_page

    async def remind(self, expiring: Sequence[Expiring]) -> AsyncGenerator[tuple[Expiring, Outcome]]:
        """See ``coupons.reminders.Messenger``."""
        async with aclosing(self._notices.send([self._notice(one) for one in expiring])) as sending:
            async for place, outcome in sending:
                yield expiring[place], outcome

    def _notice(self, expiring: Expiring) -> Notice:
        # The end is exclusive, and midnight would be read as the day after the last.
        last = (expiring.until - timedelta(minutes=1)).astimezone(ZoneInfo(expiring.zone))
        said = (_short(expiring.title), last.strftime("%Y-%m-%d %H:%M"), _short(expiring.store))
        page = self._page.replace("{coupon}", str(expiring.coupon))
        return Notice(expiring.viewer, dict(zip(self._fields, said, strict=True)), page)


def _short(text: str) -> str:
    return text if len(text) <= _THING else text[: _THING - 1] + "…"
