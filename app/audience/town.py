"""Where simulated viewers are: near a store, far from all of them, or somewhere vague; told in any datum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from geo.datum import Datum, convert
from live import wire

METRES_PER_DEGREE = 111_195.0
WALKING_M_S = 1.3
FAR_M = 15_000
"""A viewer who is far has no store closer than this."""
_EMPTY = (97.0, 41.5)
"""The Gobi: no store there."""


@dataclass(frozen=True, slots=True)
class Shop:
    """A store as ``GET /v1/stores`` shows it; ``lng, lat`` in the canonical frame."""

    code: str
    name: str
    city: str
    lng: float
    lat: float
    reach_m: float

    @classmethod
    def from_item(cls, item: dict[str, Any]) -> "Shop":
        """From an item of the list."""
        place = item["canonical"]
        reach = float(item.get("radius_m") or 3000)
        return cls(item["code"], item["name"], item["city"], place["lng"], place["lat"], reach)


def shifted(lng: float, lat: float, east_m: float, north_m: float) -> tuple[float, float]:
    """The point so many metres away; good to a metre over a few kilometres."""
    return (
        lng + east_m / (METRES_PER_DEGREE * math.cos(math.radians(lat))),
        lat + north_m / METRES_PER_DEGREE,
    )


def distance_m(lng: float, lat: float, other_lng: float, other_lat: float) -> float:
    """Metres between two points of one frame, on a plane: for distances of a city."""
    east = (other_lng - lng) * METRES_PER_DEGREE * math.cos(math.radians((lat + other_lat) / 2))
    return math.hypot(east, (other_lat - lat) * METRES_PER_DEGREE)


@dataclass(slots=True)
class Whereabouts:
    """A viewer's place in the canonical frame, and how their phone tells it."""

    lng: float
    lat: float
    datum: Datum
    accuracy: float
    shop: Shop | None = None
    """The shop they are near to, if any."""

    def fix(self, chance: Random, id: str | None = None) -> wire.Locate:
        """What the phone reports now: never twice the same digits, even of somebody who sits still."""
        lng, lat = shifted(self.lng, self.lat, chance.gauss(0, 4), chance.gauss(0, 4))
        # Canonical is GCJ-02 where that applies and WGS-84 elsewhere, which `convert` leaves alone there.
        told_lng, told_lat = convert(lng, lat, "gcj02", self.datum)
        accuracy = round(self.accuracy * chance.uniform(0.8, 1.3), 1)
        return wire.Locate(round(told_lng, 6), round(told_lat, 6), self.datum, accuracy, id)

    def walk(self, shop: Shop, seconds: float) -> None:
        """Go towards ``shop`` at walking pace."""
        left = distance_m(self.lng, self.lat, shop.lng, shop.lat)
        share = 1.0 if left < 1 else min(1.0, WALKING_M_S * seconds / left)
        self.lng += (shop.lng - self.lng) * share
        self.lat += (shop.lat - self.lat) * share


class Town:
    """All shops. Most viewers are near the first few, as a brand's are near its flagship stores."""

    def __init__(self, shops: Sequence[Shop], chance: Random) -> None:
        if not shops:
            raise ValueError("there is no store")
        self.shops = {shop.code: shop for shop in shops}
        self._list = list(shops)
        self._chance = chance
        self._countryside: list[tuple[float, float]] = []
        total = 0.0
        self._weights = [total := total + 1 / (rank + 6) for rank in range(len(shops))]

    def datum(self) -> Datum:
        """As phones tell: mostly the WeChat default, often the maps' own frame, sometimes Baidu's."""
        kinds: tuple[Datum, ...] = ("wgs84", "gcj02", "bd09")
        return self._chance.choices(kinds, (5, 4, 1))[0]

    def near(self) -> Whereabouts:
        """Within reach of a shop for certain."""
        (shop,) = self._chance.choices(self._list, cum_weights=self._weights)
        # Trade areas are not in the list and may be smaller than a radius; half of it is within both.
        away = min(shop.reach_m, 3000) * 0.5 * math.sqrt(self._chance.random())
        turn = self._chance.uniform(0, 2 * math.pi)
        lng, lat = shifted(shop.lng, shop.lat, away * math.cos(turn), away * math.sin(turn))
        return Whereabouts(lng, lat, self.datum(), self._chance.choice((10, 15, 20, 30, 45, 65)), shop)

    def vague(self) -> Whereabouts:
        """Near a shop, but with an accuracy that says nothing."""
        place = self.near()
        place.accuracy = self._chance.choice((2500, 4000, 6500))
        return place

    def far(self) -> Whereabouts:
        """In the country, with no shop anywhere near."""
        if not self._countryside:
            self._countryside = self._find_countryside()
        lng, lat = self._chance.choice(self._countryside)
        east, north = self._chance.uniform(-500, 500), self._chance.uniform(-500, 500)
        return Whereabouts(*shifted(lng, lat, east, north), self.datum(), 40)

    def _find_countryside(self) -> list[tuple[float, float]]:
        """Some places 60 km away from a shop and not near any other; looked for once, since it asks every shop."""
        found = [_EMPTY]
        for _ in range(40):
            shop = self._chance.choice(self._list)
            turn = self._chance.uniform(0, 2 * math.pi)
            lng, lat = shifted(shop.lng, shop.lat, 60_000 * math.cos(turn), 60_000 * math.sin(turn))
            if all(distance_m(lng, lat, other.lng, other.lat) > FAR_M + 1000 for other in self._list):
                found.append((lng, lat))
        return found
