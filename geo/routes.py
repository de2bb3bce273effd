"""REST: stores, stores near a point, a viewer's consent to the use of their location, and doubts about it."""

import json
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query
from fastapi import Path as PathPart
from msgspec import Meta
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import RowMapping

from geo import consents, doubt, hours, stores
from geo.datum import Datum
from geo.store_file import MAX_LENGTH, RADIUS_M, BadValue, StoreLine, check
from kernel.clock import now
from kernel.errors import Refusal
from kernel.http import (
    PLAIN,
    Anyone,
    Body,
    InOnce,
    InSession,
    Ops,
    Page,
    Viewer,
    decode_cursor,
    encode_cursor,
    refusals,
)

router = APIRouter(prefix="/v1")

LONGEST_CLOSING = timedelta(days=731)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False, description="Degrees east")]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False, description="Degrees north")]
City = Annotated[str, StringConstraints(min_length=1, max_length=MAX_LENGTH["city"], pattern=PLAIN)]
Version = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40, pattern=PLAIN)]
# Judged as in a file of stores, where `9:30` and `24:00` are times, too.
TimeOfDay = Annotated[str, StringConstraints(min_length=1, max_length=8)]


def _line(name: str) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_LENGTH[name], pattern=PLAIN)


class Canonical(BaseModel):
    """A position in the frame that Nearcast compares in: GCJ-02 in mainland China, Hong Kong, Macao, else WGS-84."""

    lng: float
    lat: float


_STORE: dict[str, Any] = {
    "id": "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
    "code": "SH-001",
    "name": "静安寺店",
    "banner": "岚汀茶室",
    "city": "上海市",
    "address": "静安区南京西路1618号",
    "lng": 121.452773,
    "lat": 31.229961,
    "datum": "bd09",
    "canonical": {"lng": 121.446319, "lat": 31.223718},
    "radius_m": 3000,
    "has_trade_area": False,
    "opens": "09:00:00",
    "closes": "22:00:00",
    "closed_until": None,
}


class StoreView(BaseModel):
    """A store. ``lng``, ``lat`` and ``datum`` are as the brand gave them."""

    model_config = ConfigDict(json_schema_extra={"examples": [_STORE]})

    id: UUID
    code: str
    name: str
    banner: str = Field(description="The name over the door")
    city: str
    address: str
    lng: float
    lat: float
    datum: Datum
    canonical: Canonical
    radius_m: int | None = Field(description="null: the campaign's radius")
    has_trade_area: bool = Field(description="Its catchment is a polygon instead of a circle")
    opens: time | None = Field(description="Time of day in the brand's time zone; null: not told")
    closes: time | None = Field(description="Before `opens`: the next day. The same: open day and night")
    closed_until: datetime | None = Field(description="Closed for the time being, if that lies ahead")


class StorePut(StoreView):
    """A store as it is kept now."""

    model_config = ConfigDict(json_schema_extra={"examples": [_STORE | {"trade_area_mended": "open ring closed"}]})

    trade_area_mended: str | None = Field(description="What had to be mended in the trade area; null: nothing")


class NearbyStore(StoreView):
    """A store, how far it is, and whether it is open."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                _STORE | {"distance_m": 412, "walk_minutes": 8, "state": "open", "state_until": "2026-11-22T14:00:00Z"}
            ]
        }
    )

    distance_m: int = Field(description="As the crow flies")
    walk_minutes: int = Field(description="A guess")
    state: hours.State = Field(
        description="`closed` by its hours, `closed_for_now` by a temporary closing, `unknown` where no hours are told"
    )
    state_until: datetime | None = Field(description="When it closes, or opens again; null: nobody knows, or never")


class StoreGiven(Body):
    """A store as a line of the import gives it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {name: _STORE[name] for name in ("code", "name", "city", "address", "lng", "lat", "datum")}
                | {"brand": "岚汀茶室", "radius_m": 3000, "opens": "09:00:00", "closes": "22:00:00"}
            ]
        }
    )

    code: Annotated[str, _line("code")] = Field(description="The brand's own; a store with this code is updated")
    name: Annotated[str, _line("name")]
    brand: Annotated[str, _line("brand")] = Field(description="The name over the door")
    city: Annotated[str, _line("city")]
    address: Annotated[str, _line("address")]
    lng: Longitude
    lat: Latitude
    datum: Datum
    radius_m: Annotated[int, Field(ge=RADIUS_M[0], le=RADIUS_M[1])] | None = None
    opens: TimeOfDay | None = Field(None, description="In the brand's time zone, as `9:30`; together with `closes`")
    closes: TimeOfDay | None = Field(None, description="As `21:30`; midnight is `24:00` or `00:00`")
    trade_area: dict[str, Any] | None = Field(
        None, description="GeoJSON Polygon or MultiPolygon in `datum`: the catchment, instead of a circle"
    )


class Closing(Body):
    """Until when a store is closed."""

    until: AwareDatetime = Field(examples=["2026-12-01T02:00:00Z"], description="In the past: it is open again")


class ConsentGiven(Body):
    """Which text the viewer agreed to."""

    version: Version = Field(examples=["2026-11"])


class ConsentInForce(Body):
    """Which version of the brand's text on location viewers must have agreed to; null: any."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "2026-11"}]})

    version: Version | None


class Consent(BaseModel):
    """A standing consent."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "2026-11", "given_at": "2026-11-22T12:00:00Z"}]}
    )

    version: str
    given_at: datetime


class SignView(BaseModel):
    """A sign that a viewer is not where their fixes say."""

    sign: Literal["jumped", "frozen", "shared"] = Field(
        description="Impossibly fast; the very same digits again and again; the very same digits as many others"
    )
    strong: bool = Field(description="Enough by itself; weak ones count in twos")
    first_at: datetime
    last_at: datetime


class DoubtView(BaseModel):
    """A viewer with signs against their fixes in a room. Says nothing of where they are."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "viewer": "019c2f6e-1a2b-7c3d-8e4f-5a6b7c8d9e0f",
                    "name": "小满",
                    "room": "019c2f6e-2b3c-7d4e-9f50-6b7c8d9e0f1a",
                    "last_at": "2026-11-22T12:10:00Z",
                    "signs": [
                        {
                            "sign": "jumped",
                            "strong": True,
                            "first_at": "2026-11-22T12:01:00Z",
                            "last_at": "2026-11-22T12:10:00Z",
                        }
                    ],
                }
            ]
        }
    )

    viewer: UUID
    name: str
    room: UUID
    last_at: datetime
    signs: list[SignView]


def _view(row: RowMapping) -> dict[str, Any]:
    return {**row, "canonical": {"lng": row["x"], "lat": row["y"]}}


@router.get("/stores", tags=["stores"], responses=refusals("token_missing", "invalid"))
async def list_stores(
    session: InSession,
    who: Anyone,
    city: Annotated[City | None, Query(examples=["上海市"])] = None,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Page[StoreView]:
    """The brand's stores, by code."""
    after = "" if cursor is None else decode_cursor(cursor, tuple[str])[0]
    rows = await stores.listed(session, who.brand, city=city, after=after, limit=limit)
    more = encode_cursor(rows[-1]["code"]) if len(rows) == limit else None
    return Page(items=[StoreView.model_validate(_view(row)) for row in rows], next=more)


_CODE = Annotated[str, Meta(max_length=MAX_LENGTH["code"], pattern=PLAIN)]


@router.get("/stores/nearby", tags=["stores"], responses=refusals("token_missing", "not_found", "invalid"))
async def list_nearby_stores(
    session: InSession,
    who: Anyone,
    lng: Annotated[Longitude, Query(examples=[121.45])],
    lat: Annotated[Latitude, Query(examples=[31.22])],
    datum: Annotated[Datum, Query(description="The frame of `lng` and `lat`; there is no default to get wrong")],
    cursor: Annotated[str | None, Query(max_length=400, description="`next` of the page before, same point")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[NearbyStore]:
    """The brand's stores within 50 km of a point, nearest first, open or not. The point is not kept."""
    after = stores.START if cursor is None else stores.Place(*decode_cursor(cursor, tuple[stores.Distance, _CODE]))
    zone, at = await stores.zone_of(session, who.brand), now()
    rows = await stores.nearby(session, who.brand, lng, lat, datum, limit, after)
    # The distance to the last bit: where the next page begins is decided by the number that ordered this one.
    more = encode_cursor(rows[-1]["distance_m"], rows[-1]["code"]) if len(rows) == limit else None
    return Page(items=[_nearby_view(row, at, zone) for row in rows], next=more)


def _nearby_view(row: RowMapping, at: datetime, zone: ZoneInfo) -> NearbyStore:
    stands = hours.standing(row["opens"], row["closes"], row["closed_until"], at, zone)
    return NearbyStore.model_validate(
        _view(row)
        | {
            "distance_m": round(row["distance_m"]),
            "walk_minutes": stores.walk_minutes(row["distance_m"]),
            "state": stands.state,
            "state_until": stands.until,
        }
    )


def _checked(given: StoreGiven) -> StoreLine:
    """``given`` by the very rules of the import. Refusal ``invalid``."""
    values = given.model_dump(mode="json", exclude={"trade_area"})
    texts = {name: "" if value is None else str(value)[:600] for name, value in values.items()}
    try:
        return check(texts | {"trade_area": "" if given.trade_area is None else json.dumps(given.trade_area)})
    except RecursionError as error:
        raise Refusal("invalid", "The trade area is nested too deeply.", field="trade_area") from error
    except BadValue as error:
        reason = str(error)  # some end in a question
        detail = f"The store is not right: {reason}{'' if reason.endswith('?') else '.'}"
        raise Refusal("invalid", detail, field=error.field) from error


@router.post(
    "/stores",
    tags=["stores"],
    responses=refusals("token_missing", "forbidden", "not_found", "invalid", "idempotency_mismatch"),
)
async def put_store(session: InSession, who: Ops, once: InOnce, given: StoreGiven) -> StorePut:
    """Add one store, or update the one with this code."""

    async def work() -> StorePut:
        store = _checked(given)
        if not await stores.brand_exists(session, who.brand):
            raise Refusal("not_found", "This brand does not exist.")
        await stores.upsert(session, who.brand, [store])
        row = await stores.by_code(session, who.brand, store.code)
        assert row is not None  # written in this very transaction
        mended = store.area.repaired if store.area is not None else None
        return StorePut.model_validate({**_view(row), "trade_area_mended": mended})

    return await once(StorePut, work)


_StoreCode = Annotated[str, PathPart(min_length=1, max_length=MAX_LENGTH["code"], pattern=PLAIN)]


@router.put(
    # Codes are the brand's own, and some brands write them with a slash.
    "/stores/{store_code:path}/closing",
    status_code=204,
    tags=["stores"],
    responses=refusals("token_missing", "forbidden", "not_found", "invalid"),
)
async def close_store(session: InSession, who: Ops, store_code: _StoreCode, closing: Closing) -> None:
    """Close a store for the time being: until then drops give none of its coupons. Those it gave stay good."""
    at = now()
    if closing.until > at + LONGEST_CLOSING:
        raise Refusal("invalid", "A store that stays closed for more than two years is none.", field="until")
    await stores.close_until(session, who.brand, store_code, closing.until if closing.until > at else None)


@router.delete(
    "/stores/{store_code:path}/closing",
    status_code=204,
    tags=["stores"],
    responses=refusals("token_missing", "forbidden", "not_found", "invalid"),
)
async def open_store(session: InSession, who: Ops, store_code: _StoreCode) -> None:
    """Take a temporary closing back."""
    await stores.close_until(session, who.brand, store_code, None)


@router.put(
    "/me/consents/location",
    tags=["me"],
    responses=refusals("token_missing", "forbidden", "not_found", "invalid", "consent_outdated"),
)
async def give_location_consent(session: InSession, who: Viewer, given: ConsentGiven) -> Consent:
    """Agree to the use of one's location while watching. Fixes are refused without it."""
    given_at = await consents.give(session, who.brand, who.subject, given.version, now())
    return Consent(version=given.version, given_at=given_at)


@router.get("/me/consents/location", tags=["me"], responses=refusals("token_missing", "forbidden", "not_found"))
async def read_location_consent(session: InSession, who: Viewer) -> Consent:
    """The consent that stands; `not_found` where none was given to the text in force, or it was withdrawn."""
    consent = await consents.standing(session, who.subject)
    if consent is None:
        raise Refusal("not_found", "No consent stands.")
    return Consent(version=consent.version, given_at=consent.given_at)


@router.delete("/me/consents/location", status_code=204, tags=["me"], responses=refusals("token_missing", "forbidden"))
async def withdraw_location_consent(session: InSession, who: Viewer) -> None:
    """Withdraw it. Every fix is erased before this answers; nothing is wrong if there was none."""
    await consents.withdraw(session, who.subject, now())


@router.get("/consents/location", tags=["me"], responses=refusals("token_missing", "forbidden"))
async def read_consent_in_force(session: InSession, who: Viewer) -> ConsentInForce:
    """Which text on location is to be agreed to."""
    return ConsentInForce(version=await consents.required(session, who.brand))


@router.put("/ops/consents/location", tags=["ops"], responses=refusals("token_missing", "forbidden", "invalid"))
async def require_location_consent(session: InSession, who: Ops, wanted: ConsentInForce) -> ConsentInForce:
    """Put a version of the brand's text in force. Whoever agreed to another one is asked again: their fixes are erased,
    and further ones refused as `consent_missing`."""
    await consents.require(session, who.brand, wanted.version)
    return wanted


_Microseconds = Annotated[int, Meta(ge=0, le=253_402_300_799_000_000)]


@router.get("/ops/doubts", tags=["ops"], responses=refusals("token_missing", "forbidden", "invalid"))
async def list_doubts(
    session: InSession,
    who: Ops,
    cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Page[DoubtView]:
    """Viewers whose fixes look implausible, of the last seven days, and why; the latest first. No positions."""
    before = None
    if cursor is not None:
        at, viewer, room = decode_cursor(cursor, tuple[_Microseconds, UUID, UUID])
        before = (_EPOCH + at * _MICROSECOND, viewer, room)
    found = await doubt.listed(session, who.brand, before, limit)
    more = None
    if len(found) == limit:
        more = encode_cursor((found[-1].last_at - _EPOCH) // _MICROSECOND, found[-1].viewer, found[-1].room)
    return Page(
        items=[
            DoubtView.model_validate({**one._asdict(), "signs": [sign._asdict() for sign in one.signs]})
            for one in found
        ],
        next=more,
    )
