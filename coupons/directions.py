"""The way to a store, in the forms that phones understand."""

from dataclasses import dataclass
from urllib.parse import quote

from geo.datum import convert

MAP_SCALE = 16
"""Of WeChat's map, 3 to 20: some streets around the store."""


@dataclass(frozen=True, slots=True)
class OpenLocation:
    """The arguments of ``wx.openLocation``, which wants GCJ-02."""

    latitude: float
    longitude: float
    name: str
    address: str
    scale: int = MAP_SCALE


@dataclass(frozen=True, slots=True)
class Directions:
    """``geo`` opens the phone's own map, ``tencent`` Tencent's in a browser or in its app."""

    geo: str
    tencent: str
    open_location: OpenLocation


def to_store(x: float, y: float, name: str, address: str) -> Directions:
    """How to get to a store at ``x, y`` (degrees, canonical frame).

    ``geo:`` links are WGS-84 by their standard (RFC 5870), Tencent's map takes GCJ-02: the same pair in both would
    lead half a kilometre astray.
    """
    lng, lat = convert(x, y, "gcj02", "wgs84")
    # Colons and semicolons divide the fields of a marker.
    title, where = (quote(text.replace(":", " ").replace(";", " "), safe="") for text in (name, address))
    return Directions(
        geo=f"geo:{lat:.6f},{lng:.6f}",
        tencent="https://apis.map.qq.com/uri/v1/marker"
        f"?marker=coord:{y:.6f},{x:.6f};title:{title};addr:{where}&referer=nearcast",
        open_location=OpenLocation(round(y, 6), round(x, 6), name, address),
    )
