"""A store's day, in lines and in sum, as a sheet that spreadsheets open and do not compute."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tills import Tills
from world import ZONE, World

from coupons import closing, redemption
from kernel.clock import now
from kernel.ids import new_id
from kernel.postgres import transaction

SHANGHAI = timedelta(hours=8)


def rows_of(text: str) -> list[list[str]]:
    assert text.startswith("\ufeff")
    return list(csv.reader(io.StringIO(text[1:])))


async def sheet(tills: Tills, query: str = "", who: Any = None) -> list[list[str]]:
    answer = await tills(who or tills.world.clerk(), "GET", f"/till/closing{query}")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["Content-Disposition"]
    return rows_of(answer.text)


async def test_a_day_in_lines_and_in_sum(tills: Tills, world: World) -> None:
    clerk = world.clerk()
    (viewer,) = await world.viewers(1)
    gift = {"kind": "gift", "gift": "茶", "amount_fen": None, "threshold_fen": 0, "title": "茶券"}
    one, two, three = await tills.coupon(), await tills.coupon(**gift), await tills.coupon()
    for key, code in (("1", one), ("2", two)):
        await tills.ok(clerk, "POST", "/redemptions", {"code": code, "order": "A", "order_fen": 12_345}, key=key)
    third = await tills.ok(clerk, "POST", "/redemptions", {"code": three, "order_fen": 20_000}, key="3")
    await tills.ok(clerk, "POST", f"/redemptions/{third['id']}/reverse")
    await tills.ok(clerk, "POST", "/visits", {"qr": tills.signer.show_member(viewer.subject, now().timestamp())})

    day = await tills.ok(clerk, "GET", "/till/closing?format=json")
    assert [line["what"] for line in day["lines"]] == ["redemption"] * 3 + ["reversal", "visit"]
    assert day["redemptions"] == {"count": 3, "orders": 2, "order_fen": 32_345, "discount_fen": 4000}
    assert day["reversals"] == {"count": 1, "orders": 1, "order_fen": 20_000, "discount_fen": 2000}
    assert day["net"] == {"count": 2, "orders": 1, "order_fen": 12_345, "discount_fen": 2000}
    assert [(line["orders"], line["turnover_fen"]) for line in day["lines"]] == [
        (1, 12_345), (0, 0), (1, 20_000), (-1, -20_000), (None, None),
    ]  # fmt: skip
    assert (day["visits"], day["told_late"], day["store"]["code"]) == (1, 0, "S1")
    assert viewer.name not in {str(value) for line in day["lines"] for value in line.values()}

    rows = await sheet(tills)
    assert rows[0][:2] == ["time", "what"] and rows[1][1:7] == ["redemption", "满100减20券", "", "A", "123.45", "20.00"]
    sums = [["redemptions", "3", "323.45", "40.00", "2"], ["reversals", "1", "200.00", "20.00", "1"],
            ["net", "2", "123.45", "20.00", "1"]]  # fmt: skip
    assert [[row[n] for n in (0, 1, 5, 6, 10)] for row in rows if row[:1] in [one[:1] for one in sums]] == sums
    # The column alone adds up to the net, as a number in every cell.
    assert [row[11] for row in rows[:6]] == ["turnover_yuan", "123.45", "0.00", "200.00", "-200.00", ""]
    assert "told_at" in rows[0] and ["told_late", "0"] in rows  # the names that JSON has
    assert await sheet(tills, "?store=S1", world.ops) == rows


async def test_days_begin_at_the_brands_midnight(tills: Tills, world: World) -> None:
    clerk = world.clerk()
    used = await tills.ok(clerk, "POST", "/redemptions", {"code": await tills.coupon()}, key="k")
    midnight = datetime(2026, 11, 20, tzinfo=UTC) - SHANGHAI
    await world.execute(
        "UPDATE redemptions SET at = :at, told_at = :told, reversed_at = :back",
        at=midnight - timedelta(seconds=1), told=midnight + timedelta(hours=9), back=midnight,
    )  # fmt: skip
    lines: dict[str, list[Any]] = {}
    for day in ("2026-11-18", "2026-11-19", "2026-11-20", "2026-11-21"):
        found = await tills.ok(clerk, "GET", f"/till/closing?format=json&date={day}")
        lines[day] = [(line["what"], line["id"], bool(line["told_at"])) for line in found["lines"]]
    assert lines == {
        "2026-11-18": [],
        "2026-11-19": [("redemption", used["id"], True)],
        "2026-11-20": [("reversal", used["id"], False)],
        "2026-11-21": [],
    }
    assert (await sheet(tills, "?date=2026-11-19"))[1][0] == "2026-11-19 23:59:59+08:00"
    await world.execute("UPDATE redemptions SET at = :at, reversed_at = NULL, told_at = NULL", at=now())
    await world.execute("UPDATE coupons SET redeemed_at = :at", at=now())
    await world.execute("UPDATE ledger SET at = :at WHERE transition = 'redeem'", at=now())


MIDNIGHT = datetime(2026, 11, 24, tzinfo=ZONE)
"""Between a Monday and a Tuesday."""


async def use(tills: Tills, sale: redemption.Sale, **terms: Any) -> UUID:
    code, begin = await tills.coupon(**terms), MIDNIGHT - timedelta(days=2)
    await tills.world.execute(
        "UPDATE coupons SET valid_from = :begin, valid_until = :end", begin=begin, end=begin + timedelta(days=9)
    )
    await tills.world.backdate()
    async with transaction(tills.world.kernel.sessions) as session:
        shown = redemption.Presented(code, None)
        return (await redemption.use_up(session, tills.world.clerk(), shown, sale, tills.signer)).id


async def take_back(tills: Tills, used: UUID, at: datetime) -> None:
    async with transaction(tills.world.kernel.sessions) as session:
        await redemption.reverse(session, tills.world.clerk(), used, at)


async def nets(tills: Tills) -> dict[str, tuple[int, int, int]]:
    """Of Monday and Tuesday: redemptions less reversals, orders, and what they come to."""
    found = {}
    for day in ("2026-11-23", "2026-11-24"):
        net = (await tills.ok(tills.world.clerk(), "GET", f"/till/closing?format=json&date={day}"))["net"]
        found[day[-2:]] = (net["count"], net["orders"], net["order_fen"])
    return found


async def test_an_order_is_taken_back_on_the_day_its_last_coupon_is(tills: Tills) -> None:
    late = MIDNIGHT - timedelta(minutes=20)
    discount = await use(tills, redemption.Sale("1", late, 12_000, "A"))
    gift = await use(tills, redemption.Sale("2", late, 12_000, "A"), kind="gift", gift="茶", amount_fen=None)
    await use(tills, redemption.Sale("3", late, 30_000, "B"))
    monday = await sheet(tills, "?date=2026-11-23")
    assert await nets(tills) == {"23": (3, 2, 42_000), "24": (0, 0, 0)}
    await take_back(tills, discount, MIDNIGHT + timedelta(minutes=5))
    assert await nets(tills) == {"23": (3, 2, 42_000), "24": (-1, 0, 0)}
    # Tuesday has an order A of its own; taking back Monday's gift takes back Monday's order.
    await use(tills, redemption.Sale("4", MIDNIGHT + timedelta(minutes=6), 11_000, "A"))
    await take_back(tills, gift, MIDNIGHT + timedelta(minutes=7))
    assert await nets(tills) == {"23": (3, 2, 42_000), "24": (-1, 0, -1000)}
    assert await sheet(tills, "?date=2026-11-23") == monday, "Monday was closed"
    tuesday = [row for row in await sheet(tills, "?date=2026-11-24") if row[1:2] in (["redemption"], ["reversal"])]
    assert [(row[1], row[4], *row[9:]) for row in tuesday] == [
        ("reversal", "A", "2026-11-23", "0", "0.00"),
        ("redemption", "A", "2026-11-24", "1", "110.00"),
        ("reversal", "A", "2026-11-23", "-1", "-120.00"),
    ]


async def test_nothing_is_taken_back_before_it_was_made(tills: Tills) -> None:
    """A till that told it had a clock a little ahead."""
    told = MIDNIGHT - timedelta(seconds=10)
    used = await use(tills, redemption.Sale("1", MIDNIGHT + timedelta(seconds=20), 12_000, "A", told))
    await take_back(tills, used, told + timedelta(seconds=5))
    whats = [
        [line["what"] for line in (await tills.ok(tills.world.clerk(), "GET", f"/till/closing?{query}"))["lines"]]
        for query in ("format=json&date=2026-11-23", "format=json&date=2026-11-24")
    ]
    assert whats == [[], ["redemption", "reversal"]]


async def test_clerks_close_their_own_store_and_ops_any(tills: Tills, world: World) -> None:
    await world.store("S2", north_m=5_000)
    (viewer,) = await world.viewers(1)
    for who, query, code in (
        (world.clerk(), "?store=S2", "forbidden"),
        (world.ops, "", "invalid"),
        (world.ops, "?store=S9", "not_found"),
        (world.ops, "?store=S1&date=0001-01-01", "invalid"),
        (world.ops, "?store=S1&date=yesterday", "invalid"),
        (viewer, "", "forbidden"),
        (world.guide, "?store=S1", "forbidden"),
    ):
        assert (await tills.refused(who, "GET", f"/till/closing{query}"))["code"] == code
    assert (await sheet(tills, "?store=S1", world.clerk()))[0][0] == "time"
    assert await sheet(tills, "?store=S2", world.ops)


async def test_no_cell_is_a_formula(tills: Tills, world: World) -> None:
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", '=HYPERLINK("http://x","a,b")']
    today = now().date()
    lines = [
        closing.ClosingLine("redemption", now(), None, new_id(), title, title, title, 1, 1, today, 1, 1)
        for title in evil
    ]
    day = closing.Day("=1", "-1", today, "Asia/Shanghai", lines)
    cells = [cell for row in rows_of(closing.as_csv(day)) for cell in row]
    assert not [cell for cell in cells if cell.strip(" ").startswith(("=", "+", "-", "@", "\t"))]
    assert {f"'{title}" for title in evil} <= set(cells), "and all of it is still there to read"
    # The same through the door: a title is ops' own text, an order reference the clerk's.
    body = {"code": await tills.coupon(title="=cmd|' /C calc'!A0"), "order": "-2+3", "order_fen": 15_000}
    await tills.ok(world.clerk(), "POST", "/redemptions", body, key="k")
    row = (await sheet(tills))[1]
    assert (row[2], row[4]) == ("'=cmd|' /C calc'!A0", "'-2+3")
