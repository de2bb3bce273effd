"""``geo.hours``: open or not, and until when."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geo.hours import standing

SHANGHAI = ZoneInfo("Asia/Shanghai")
DAY = (time(9), time(22))
NIGHT = (time(18), time(2))


def at(clock: str, zone: ZoneInfo = SHANGHAI, day: int = 22) -> datetime:
    return datetime(2026, 11, day, *map(int, clock.split(":")), tzinfo=zone).astimezone(UTC)


CASES = [
    (DAY, "08:59", "closed", at("09:00")),
    (DAY, "09:00", "open", at("22:00")),
    (DAY, "21:59", "open", at("22:00")),
    (DAY, "22:00", "closed", at("09:00", day=23)),
    (NIGHT, "17:59", "closed", at("18:00")),
    (NIGHT, "23:30", "open", at("02:00", day=23)),
    (NIGHT, "00:00", "open", at("02:00")),
    (NIGHT, "02:00", "closed", at("18:00")),
    ((time(), time()), "04:00", "open", None),
    ((time(9), time()), "23:59", "open", at("00:00", day=23)),
    ((None, None), "12:00", "unknown", None),
]


@pytest.mark.parametrize(("hours", "clock", "state", "until"), CASES)
def test_hours_are_the_brands_time_of_day(
    hours: tuple[time | None, time | None], clock: str, state: str, until: datetime | None
) -> None:
    stands = standing(*hours, None, at(clock), SHANGHAI)
    assert (stands.state, stands.until) == (state, until)


def test_the_same_moment_is_another_time_of_day_elsewhere() -> None:
    assert standing(*DAY, None, at("09:30"), SHANGHAI).state == "open"
    assert standing(*DAY, None, at("09:30"), ZoneInfo("Europe/Paris")).state == "closed"


CLOSINGS = [
    ("14:00", "closed_for_now", at("14:00")),
    ("23:00", "closed_for_now", at("09:00", day=23)),
    ("10:00", "open", at("22:00")),
]


@pytest.mark.parametrize(("closed_until", "state", "until"), CLOSINGS)
def test_a_temporary_closing_ends_when_the_store_opens_next(closed_until: str, state: str, until: datetime) -> None:
    stands = standing(*DAY, at(closed_until), at("12:00"), SHANGHAI)
    assert (stands.state, stands.until) == (state, until)


def test_a_store_without_hours_is_unknown_again_when_its_closing_ends() -> None:
    stands = standing(None, None, at("14:00"), at("12:00"), SHANGHAI)
    assert (stands.state, stands.until) == ("closed_for_now", at("14:00"))


times = st.times().map(lambda t: t.replace(second=0, microsecond=0))
zones = st.sampled_from(["Asia/Shanghai", "Europe/Paris", "Asia/Kathmandu"]).map(ZoneInfo)
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))


@given(times, times, moments, zones)
def test_what_is_told_holds_until_it_is_said_to_change(
    opens: time, closes: time, moment: datetime, zone: ZoneInfo
) -> None:
    stands = standing(opens, closes, None, moment, zone)
    if opens == closes:
        assert (stands.state, stands.until) == ("open", None)
        return
    assert stands.until is not None
    assert moment < stands.until <= moment + timedelta(hours=25)
    if zone.key != "Europe/Paris":  # clocks that jump may open a shop for the hour that is missing
        changed = standing(opens, closes, None, stands.until, zone)
        assert changed.state != stands.state
        just_before = stands.until - timedelta(microseconds=1)
        assert standing(opens, closes, None, just_before, zone).state == stands.state
