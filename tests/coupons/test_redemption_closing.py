"""A store's day, in lines and in sum, as a sheet that spreadsheets open and do not compute."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

from tills import Tills
from world import World

from coupons import closing
from kernel.clock import now
from kernel.ids import new_id

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
    assert day["redemptions"] == {"count": 3, "order_fen": 32_345, "discount_fen": 4000}
    assert day["reversals"] == {"count": 1, "order_fen": 20_000, "discount_fen": 2000}
    assert (day["visits"], day["told_late"], day["store"]["code"]) == (1, 0, "S1")
    assert viewer.name not in {str(value) for line in day["lines"] for value in line.values()}

    rows = await sheet(tills)
    assert rows[0][:2] == ["time", "what"] and rows[1][1:7] == ["redemption", "满100减20券", "", "A", "123.45", "20.00"]
    assert ["redemptions", "3", "", "", "", "323.45", "40.00"] in rows
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
    lines = [closing.ClosingLine("redemption", now(), None, new_id(), title, title, title, 1, 1) for title in evil]
    day = closing.Day("=1", "-1", now().date(), "Asia/Shanghai", lines)
    cells = [cell for row in rows_of(closing.as_csv(day)) for cell in row]
    assert not [cell for cell in cells if cell.strip(" ").startswith(("=", "+", "-", "@", "\t"))]
    assert {f"'{title}" for title in evil} <= set(cells), "and all of it is still there to read"
    # The same through the door: a title is ops' own text, an order reference the clerk's.
    body = {"code": await tills.coupon(title="=cmd|' /C calc'!A0"), "order": "-2+3", "order_fen": 15_000}
    await tills.ok(world.clerk(), "POST", "/redemptions", body, key="k")
    row = (await sheet(tills))[1]
    assert (row[2], row[4]) == ("'=cmd|' /C calc'!A0", "'-2+3")
