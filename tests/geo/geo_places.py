"""What the tests of ``geo`` put on the map."""

from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from geo.datum import to_canonical
from geo.store_file import StoreLine
from geo.trade_area import TradeArea

BRAND = "tea"


def store(
    code: str, lng: float, lat: float, *, radius_m: int | None = None, area: bytes | None = None, datum: str = "gcj02"
) -> StoreLine:
    """A store as the import would make it; ``area`` is WKB in the canonical frame."""
    return StoreLine(
        code=code,
        name=f"store {code}",
        banner="Tea",
        city="上海市",
        address="somewhere",
        lng=lng,
        lat=lat,
        datum=datum,
        canonical=to_canonical(lng, lat, datum),
        radius_m=radius_m,
        area=None if area is None else TradeArea(area),
    )


Keep = Callable[[Iterable[StoreLine]], Awaitable[dict[str, UUID]]]
