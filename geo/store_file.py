"""The CSV file of stores: every line read and judged, none written. The import into the database is ``geo.stores``.

Columns ``code,name,brand,city,address,lng,lat,datum`` and, where wanted, ``radius_m,opens,closes,trade_area``, in any
order, UTF-8 with or without byte order mark. Line numbers are those that an editor shows, also behind quoted newlines.
"""

import csv
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from typing import cast

from geo import trade_area
from geo.datum import DATUMS, Datum, in_region, to_canonical
from geo.trade_area import BadArea, TradeArea

REQUIRED = ("code", "name", "brand", "city", "address", "lng", "lat", "datum")
OPTIONAL = ("radius_m", "opens", "closes", "trade_area")
MAX_LENGTH = {"code": 64, "name": 200, "brand": 100, "city": 100, "address": 500}
RADIUS_M = (50, 50_000)
MAX_LINE = 1 << 20
"""Bytes. A longer line is no store; it is a file of another kind, or a quote that is never closed."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,4}(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_TIME = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])(:[0-5][0-9])?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Unreadable(Exception):
    """The file as a whole cannot be read as a list of stores; the message says why and what to do."""


class BadValue(ValueError):
    """One line cannot be a store because of ``field``; the message says why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class StoreLine:
    """A store as a file or a request gives it, checked. ``lng, lat`` are in ``datum``, ``canonical`` in ours."""

    code: str
    name: str
    banner: str
    city: str
    address: str
    lng: float
    lat: float
    datum: Datum
    canonical: tuple[float, float]
    radius_m: int | None = None
    opens: time | None = None
    closes: time | None = None
    area: TradeArea | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was refused: its number, counted from 1 at the header, its store's code if it has one, and why."""

    line: int
    code: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}{f' ({self.code})' if self.code else ''}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file is, seen from afar: its lines, and the columns that nobody asked for."""

    lines: int
    header: tuple[str, ...]
    ignored: tuple[str, ...]


def examine(path: Path) -> Contents:
    """Look through the whole file once, in pieces, before the first store is read. Raises Unreadable."""
    try:
        with path.open("rb") as file:
            lines = _count_lines(iter(lambda: file.read(1 << 16), b""))
        with path.open(encoding="utf-8-sig", newline="") as text:
            first = next((row for row in csv.reader(text, strict=True) if any(field.strip() for field in row)), [])
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error
    except csv.Error as error:
        raise Unreadable(f"the header is not CSV: {error}") from error
    header = tuple(name.strip().lower() for name in first)
    if not header:
        raise Unreadable("the file is empty")
    if missing := [name for name in REQUIRED if name not in header]:
        found = ", ".join(header)[:200]
        hint = "; fields must be separated by commas" if len(header) == 1 and re.search("[;\t|]", header[0]) else ""
        raise Unreadable(f"the header lacks {', '.join(missing)} (it has: {found}){hint}")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise Unreadable(f"the header has {', '.join(twice)} twice")
    return Contents(lines, header, tuple(name for name in header if name and name not in REQUIRED + OPTIONAL))


def _count_lines(chunks: Iterator[bytes]) -> int:
    """Lines of a UTF-8 text; Unreadable for anything else."""
    decoder = getincrementaldecoder("utf-8")()
    lines = since = 0
    last = b""
    for number, chunk in enumerate(chunks):
        if number == 0 and chunk.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise Unreadable("the file is UTF-16; save it as UTF-8")
        if b"\0" in chunk:
            raise Unreadable("the file is not text (it contains zero bytes)")
        try:
            decoder.decode(chunk)
        except UnicodeDecodeError as error:
            at = lines + chunk[: max(0, error.start)].count(b"\n") + 1
            raise Unreadable(f"line {at} is not UTF-8 (perhaps GBK); save the file as UTF-8") from error
        lines += chunk.count(b"\n")
        since = len(chunk) - chunk.rfind(b"\n") - 1 if b"\n" in chunk else since + len(chunk)
        if since > MAX_LINE:
            raise Unreadable(f"line {lines + 1} is longer than {MAX_LINE >> 20} MB; this is no list of stores")
        last = chunk
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise Unreadable("the file ends in the middle of a character: was it cut off?") from error
    if not last:
        raise Unreadable("the file is empty")
    return lines + (not last.endswith(b"\n"))


def read(path: Path, contents: Contents) -> Iterator[StoreLine | BadLine]:
    """Every line below the header, in order, as a store or with the reason why it is none.

    A code that an earlier good line has is refused. Blank lines are passed over. Reads as it goes: a file of any
    length takes the memory of one line, and of all codes.
    """
    csv.field_size_limit(MAX_LINE)
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        heading = True
        while True:
            begins = rows.line_num + 1
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                until = f" (read up to line {rows.line_num})" if rows.line_num > begins else ""
                yield BadLine(begins, "", f"not CSV{until}: {error}")
                continue
            if not any(field.strip() for field in fields):
                continue
            if heading:
                heading = False
                continue
            yield _judge(begins, fields, contents.header, seen)


def _judge(line: int, fields: list[str], header: tuple[str, ...], seen: dict[str, int]) -> StoreLine | BadLine:
    values = {name: value.strip() for name, value in zip(header, fields, strict=False)}
    code = _CONTROL.sub("", values.get("code", ""))[:64]
    if any(field.strip() for field in fields[len(header) :]):
        reason = f"{len(fields)} fields where the header has {len(header)}: is a comma not quoted?"
        return BadLine(line, code, reason)
    try:
        store = check(values, line)
    except BadValue as error:
        return BadLine(line, code, str(error))
    if (earlier := seen.setdefault(store.code, line)) != line:
        return BadLine(line, code, f"code {store.code} was already on line {earlier}")
    return store


def check(values: Mapping[str, str], line: int = 0) -> StoreLine:
    """The store that ``values`` (column → text) describe. Raises BadValue with the first reason why not."""
    if absent := [name for name in REQUIRED if name not in values]:
        raise BadValue(absent[0], f"column {absent[0]} is missing")
    if empty := [name for name in REQUIRED if not values[name].strip()]:
        raise BadValue(empty[0], f"{empty[0]} is empty")
    # An address copied from a sheet may run over two lines; that is no reason to lose the store.
    texts = {name: " ".join(values[name].split()) for name in MAX_LENGTH}
    for name, value in texts.items():
        if _CONTROL.search(value):
            raise BadValue(name, f"{name} contains a control character")
        if len(value) > MAX_LENGTH[name]:
            raise BadValue(name, f"{name} is longer than {MAX_LENGTH[name]} characters")
    lng, lat, datum = _position(values["lng"], values["lat"], values["datum"])
    opens, closes = _time("opens", values.get("opens", "")), _time("closes", values.get("closes", ""))
    if (opens is None) != (closes is None):
        raise BadValue("opens" if opens is None else "closes", "opens and closes go together; one of them is empty")
    canonical = to_canonical(lng, lat, datum)
    return StoreLine(
        code=texts["code"],
        name=texts["name"],
        banner=texts["brand"],
        city=texts["city"],
        address=texts["address"],
        lng=lng,
        lat=lat,
        datum=datum,
        canonical=canonical,
        radius_m=_radius(values.get("radius_m", "")),
        opens=opens,
        closes=closes,
        area=_area(values.get("trade_area", ""), datum, canonical),
        line=line,
    )


def _position(lng: str, lat: str, datum: str) -> tuple[float, float, Datum]:
    x, y = _coordinate("lng", lng), _coordinate("lat", lat)
    if (datum := datum.lower()) not in DATUMS:
        raise BadValue("datum", f'unknown datum "{datum[:20]}": use {", ".join(DATUMS)}')
    # In China longitudes are above 73 and latitudes below 54, so a swapped pair is either off the globe or in the
    # Arctic Ocean, and makes sense the other way round.
    if in_region(y, x):
        raise BadValue("lng", f"lng and lat are swapped: lng {lng}, lat {lat} is a place in China the other way round")
    if not -180 <= x <= 180:
        raise BadValue("lng", f"lng {lng} is out of range: -180 to 180")
    if not -90 <= y <= 90:
        raise BadValue("lat", f"lat {lat} is out of range: -90 to 90")
    if x == y == 0:
        raise BadValue("lng", "lng and lat are both 0, which is in the Atlantic Ocean")
    return x, y, cast(Datum, datum)


def _coordinate(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise BadValue(name, f'{name} "{text[:20]}" is not a number in degrees, such as 116.404')
    return float(text)


def _radius(text: str) -> int | None:
    if not text:
        return None
    low, high = RADIUS_M
    if not re.fullmatch("[0-9]{1,6}", text, re.ASCII) or not low <= int(text) <= high:
        raise BadValue("radius_m", f'radius_m "{text[:20]}" is not a whole number of metres from {low} to {high}')
    return int(text)


def _time(name: str, text: str) -> time | None:
    if not text:
        return None
    match = _TIME.fullmatch(text)
    if not match or (match[1] == "24" and match[2] != "00"):
        raise BadValue(name, f'{name} "{text[:20]}" is not a time of day such as 09:30')
    return time(int(match[1]) % 24, int(match[2]))


def _area(text: str, datum: Datum, canonical: tuple[float, float]) -> TradeArea | None:
    if not text:
        return None
    try:
        return trade_area.parse(text, datum, *canonical)
    except BadArea as error:
        raise BadValue("trade_area", f"trade_area {error}") from error
