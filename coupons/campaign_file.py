"""A file of campaigns, CSV or JSON, as lines of values. What they must be is said once, by ``views.NewCampaign``.

CSV: a header of the fields' names; an empty field is left out, numbers are the digits 0 to 9 and nothing else, truths
``true`` and ``false``, lists are separated by ``|`` (``SH001|SH002``), ``distance_tiers`` is ``500:2000|1000:1000``,
metres and fen. JSON: an array of objects, or one object after the other.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coupons.views import NewCampaign

MAX_BYTES = 16 << 20
CURRENT = "current_stock"
"""Beside the fields of a campaign: what the stock of a campaign that runs is believed to be, to change it."""
FIELDS = (*NewCampaign.model_fields, CURRENT)
_SCHEMAS = NewCampaign.model_json_schema()["properties"]
_KINDS = {name: {form.get("type") for form in one.get("anyOf", [one])} for name, one in _SCHEMAS.items()}
_WHOLE = {CURRENT, *(name for name, kinds in _KINDS.items() if "integer" in kinds)}
_TRUTHS = {name for name, kinds in _KINDS.items() if "boolean" in kinds}
_LISTS = ("store_codes", "segments")
_TIERS = "distance_tiers"


class UnreadableCampaigns(Exception):
    """The file as a whole is no list of campaigns; the message says why."""


class Line(NamedTuple):
    """One campaign as the file gives it: the line it begins on, and its values; or why it cannot be read at all."""

    number: int
    values: dict[str, Any]
    problem: str | None = None


def read(path: Path) -> list[Line]:
    """Every campaign in ``path``, in order. Raises UnreadableCampaigns."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_BYTES else None
    except OSError as error:
        raise UnreadableCampaigns(error.strerror or str(error)) from error
    if raw is None:
        raise UnreadableCampaigns(f"the file is larger than {MAX_BYTES >> 20} MB; this is no list of campaigns")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UnreadableCampaigns(f"line {line} is not UTF-8 (perhaps GBK); save the file as UTF-8") from error
    if not text.strip():
        raise UnreadableCampaigns("the file is empty")
    return list(_json(text) if text.lstrip()[0] in "[{" else _csv(text))


def _json(text: str) -> Iterator[Line]:
    decoder = json.JSONDecoder()
    at, lines, counted = _skip(text, 0, ""), 1, 0
    closing = "]" if text[at] == "[" else ""
    at = _skip(text, at + len(closing), "")
    while at < len(text) and text[at] != closing:
        lines, counted = lines + text.count("\n", counted, at), at
        try:
            found, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
            where = text.count("\n", 0, getattr(error, "pos", at)) + 1
            raise UnreadableCampaigns(
                f"line {where} is not JSON: {getattr(error, 'msg', 'a number too long, or brackets too deep')}"
            ) from error
        if isinstance(found, dict):
            yield Line(lines, found)
        else:
            yield Line(lines, {}, "this is not an object with the fields of a campaign")
        at = _skip(text, at, ",")
    if closing and at >= len(text):
        raise UnreadableCampaigns("the array is not closed; was the file cut off?")


def _skip(text: str, at: int, besides: str) -> int:
    while at < len(text) and (text[at].isspace() or text[at] in besides):
        at += 1
    return at


def _csv(text: str) -> Iterator[Line]:
    rows = csv.reader(text.splitlines(keepends=True), strict=True)
    header: list[str] | None = None
    while True:
        begins = rows.line_num + 1
        try:
            fields = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(begins, {}, f"not CSV: {error}")
            continue
        if not any(field.strip() for field in fields):
            continue
        if header is None:
            header = _header(fields)
            continue
        if any(field.strip() for field in fields[len(header) :]):
            reason = f"{len(fields)} fields where the header has {len(header)}: is a comma not quoted?"
            yield Line(begins, {}, reason)
            continue
        given = {name: field.strip() for name, field in zip(header, fields, strict=False) if field.strip()}
        yield Line(begins, {name: _value(name, field) for name, field in given.items()})


def _header(fields: list[str]) -> list[str]:
    header = [field.strip().lower() for field in fields]
    # A term that nobody reads is money given away: a misspelt column is not passed over.
    if unknown := [name for name in header if name not in FIELDS]:
        raise UnreadableCampaigns(f"the header has columns that campaigns have not: {', '.join(unknown)[:200]}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UnreadableCampaigns(f"the header has {', '.join(twice)} twice")
    if "key" not in header:
        raise UnreadableCampaigns("the header lacks key, by which a second import finds its campaigns")
    return header


def _value(name: str, field: str) -> Any:
    """What ``field`` says, for the one place that judges it: what is none of these is passed on, and refused there."""
    if name in _LISTS:
        return [part.strip() for part in field.split("|")]
    if name == _TIERS:
        pairs = [part.partition(":") for part in field.split("|")]
        return [{"within_m": _whole(metres.strip()), "amount_fen": _whole(fen.strip())} for metres, _, fen in pairs]
    if name in _WHOLE:
        return _whole(field)
    return {"true": True, "false": False}.get(field.lower(), field) if name in _TRUTHS else field


def _whole(field: str) -> int | str:
    return int(field) if re.fullmatch("[0-9]{1,30}", field) else field
