"""Tables for people with spreadsheets: CSV that opens rightly, and in which no cell computes anything."""

import csv
import io
from collections.abc import Iterable
from decimal import Decimal

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What a text must not begin with, or a spreadsheet computes it."""


def _cell(value: object) -> object:
    """``value`` as a cell that no spreadsheet takes for a formula: an apostrophe goes before what looks like one."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def as_csv(rows: Iterable[Iterable[object]]) -> str:
    """``rows`` as CSV (RFC 4180) with a byte order mark, without which Excel garbles Chinese."""
    sheet = io.StringIO()
    csv.writer(sheet).writerows([_cell(cell) for cell in row] for row in rows)
    return "\ufeff" + sheet.getvalue()


def yuan(fen: int | None) -> Decimal | None:
    """Money as a spreadsheet adds it up, with two decimals."""
    return None if fen is None else Decimal(fen).scaleb(-2)
