"""A GeoJSON file of trade areas: every feature read and judged, none written.

A ``FeatureCollection``, or one ``Feature`` a line. A feature's properties name the store (``code``) and may name the
``datum`` of its coordinates; its geometry is a Polygon or MultiPolygon, or null to take the store's trade area away.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from geo import trade_area
from geo.datum import DATUMS, Datum
from geo.store_file import MAX_LENGTH, Unreadable
from geo.trade_area import BadArea, TradeArea

MAX_BYTES = 64 << 20
"""25,000 areas of a hundred corners each; a file beyond that is some other map."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature as the file has it. ``place`` is where: ``feature 3``, or ``line 3``."""

    place: str
    code: str
    datum: str | None
    geometry: Any


@dataclass(frozen=True, slots=True)
class Remark:
    """What is to be said about a feature: why it was refused, or how it was mended."""

    place: str
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}{f' ({self.code})' if self.code else ''}: {self.reason}"


def read(path: Path) -> Iterator[Feature | Remark]:
    """Every feature in order, or the reason why it is none; a code that an earlier one has is refused.

    Raises Unreadable, before the first one, if the file as a whole is no GeoJSON.
    """
    seen: dict[str, str] = {}
    for place, data in _features(_text(path)):
        feature = _feature(place, data)
        if isinstance(feature, Feature):
            earlier = seen.setdefault(feature.code, place)
            if earlier != place:
                feature = Remark(place, feature.code, f"this store has an area already, in {earlier}")
        yield feature


def judge(
    feature: Feature, datum: Datum | None, stores: Mapping[str, tuple[float, float]]
) -> TradeArea | Remark | None:
    """The trade area that ``feature`` gives to its store, None where it takes it away, or why it is refused.

    ``stores`` holds the canonical position of every store by code, ``datum`` is that of features that name none.
    """

    def refused(reason: str) -> Remark:
        return Remark(feature.place, feature.code, reason)

    if feature.code not in stores:
        return refused("the brand has no store with this code")
    if feature.geometry is None:
        return None
    named = feature.datum or datum
    if named not in DATUMS:
        what = f'unknown datum "{str(named)[:20]}"' if named else "names no datum"
        return refused(f"{what}: use {', '.join(DATUMS)}")
    try:
        return trade_area.parse(json.dumps(feature.geometry), cast(Datum, named), *stores[feature.code])
    except BadArea as error:
        return refused(f"the area {error}")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Unreadable(f"the file is larger than {MAX_BYTES >> 20} MB; this is no list of trade areas")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Unreadable("the file is not UTF-8; save it as UTF-8") from error


def _features(text: str) -> list[tuple[str, Any]]:
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise Unreadable("the file is nested too deeply to be GeoJSON") from error
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip("\x1e \t")]
        if len(lines) > 1 and all(line.strip("\x1e \t").startswith("{") for _, line in lines):
            return [(f"line {number}", _loaded(line.strip("\x1e \t"))) for number, line in lines]
        raise Unreadable(f"the file is not JSON: {error}") from error
    if isinstance(data, dict) and data.get("type") == "FeatureCollection" and isinstance(data.get("features"), list):
        return [(f"feature {number}", feature) for number, feature in enumerate(data["features"], 1)]
    if isinstance(data, dict) and data.get("type") == "Feature":
        return [("feature 1", data)]
    raise Unreadable("the file is no GeoJSON FeatureCollection, nor one Feature a line")


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _feature(place: str, data: Any) -> Feature | Remark:
    if not isinstance(data, dict) or data.get("type") != "Feature" or "geometry" not in data:
        return Remark(place, "", "is not a GeoJSON Feature")
    properties = data.get("properties")
    values = properties if isinstance(properties, dict) else {}
    code = values.get("code")
    if isinstance(code, int) and not isinstance(code, bool) and abs(code) < 10**18:
        code = str(code)
    if not isinstance(code, str) or not code.strip():
        return Remark(place, "", "has no property `code`, which names the store")
    code = code.strip()
    if _CONTROL.search(code) or len(code) > MAX_LENGTH["code"]:
        return Remark(place, "", "has a `code` that no store can have")
    datum = values.get("datum")
    return Feature(place, code, None if datum is None else str(datum)[:20].lower(), data["geometry"])
