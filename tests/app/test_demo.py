"""The demo world: complete, plausible, and loaded twice without harm."""

import csv
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sqlalchemy import func, select, update

from app import demo
from coupons.tables import Campaign
from geo.tables import Store
from guides.tables import GuideStore, Member, Staff
from kernel.process import Kernel
from live.tables import Product, Room, ShelfItem

ROOT = Path(demo.__file__).parent.parent


def shipped() -> list[dict[str, str]]:
    with demo.STORES_FILE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


async def count(kernel: Kernel, table: type, *conditions: object) -> int:
    async with kernel.sessions() as session:
        return await session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0


def test_shipped_stores_are_many_in_several_cities_and_given_in_every_datum() -> None:
    stores = shipped()
    assert len(stores) >= 120
    assert len({store["code"] for store in stores}) == len(stores)
    assert len(Counter(store["city"] for store in stores)) >= 5
    assert {store["datum"] for store in stores} == {"wgs84", "gcj02", "bd09"}
    assert sum(bool(store["trade_area"]) for store in stores) >= 3
    assert sum(bool(store["radius_m"]) for store in stores) >= 3


async def test_the_whole_world_is_loaded(kernel: Kernel) -> None:
    world = await demo.load(kernel)
    assert world.refused_lines == 0
    assert await count(kernel, Store) == world.stores == len(shipped())
    assert await count(kernel, Staff, Staff.role == "guide") == 40
    assert await count(kernel, GuideStore) == 40
    assert await count(kernel, Staff, Staff.role == "clerk") == world.stores
    assert await count(kernel, Product) == world.products >= 12
    async with kernel.sessions() as session:
        assert set(await session.scalars(select(Member.tier).distinct())) == {0, 1, 2, 3}
        kinds = set(await session.scalars(select(Campaign.kind).where(Campaign.state == "running")))
        assert kinds == {"amount", "percent", "gift"}
        main = await session.get_one(Room, world.room)
        assert main.state == "scheduled"
        guide = await session.get_one(Staff, main.guide_id)
        assert guide.account == world.guide == "guide-01"
        assert len(list(await session.scalars(select(ShelfItem).where(ShelfItem.room_id == world.room)))) >= 12
    assert await count(kernel, Room, Room.state == "live") >= 3


async def test_every_store_lies_where_its_city_is_whatever_datum_it_was_given_in(kernel: Kernel) -> None:
    await demo.load(kernel)
    async with kernel.sessions() as session:
        spans = await session.execute(
            select(
                Store.city,
                func.ST_XMax(func.ST_Extent(func.geometry(Store.position)))
                - func.ST_XMin(func.ST_Extent(func.geometry(Store.position))),
            ).group_by(Store.city)
        )
        assert all(span < 0.8 for _, span in spans)


async def test_loading_again_changes_nothing(kernel: Kernel) -> None:
    first = await demo.load(kernel)
    tables = (Store, Staff, GuideStore, Member, Product, Campaign, Room, ShelfItem)
    before = [await count(kernel, table) for table in tables]
    second = await demo.load(kernel)
    assert second == first
    assert [await count(kernel, table) for table in tables] == before


async def test_a_main_room_that_ended_is_followed_by_a_fresh_one(kernel: Kernel) -> None:
    first = await demo.load(kernel)
    async with kernel.sessions() as session, session.begin():
        await session.execute(update(Room).where(Room.id == first.room).values(state="ended", ended_at=func.now()))
    second = await demo.load(kernel)
    assert second.room != first.room
    assert second.rooms[1:] == first.rooms[1:]


async def test_a_campaign_that_was_given_away_is_followed_by_a_fresh_one(kernel: Kernel) -> None:
    await demo.load(kernel)
    tiny = Campaign.stock < 20
    async with kernel.sessions() as session, session.begin():
        await session.execute(update(Campaign).where(tiny).values(issued=Campaign.stock))
    await demo.load(kernel)
    async with kernel.sessions() as session:
        rows = (await session.execute(select(Campaign.state, Campaign.issued).where(tiny))).all()
    assert sorted(map(tuple, rows)) == [("ended", 10), ("running", 0)]


async def test_other_stores_take_the_place_of_the_demos(kernel: Kernel, tmp_path: Path) -> None:
    await demo.load(kernel)
    other = tmp_path / "stores.csv"
    other.write_text(
        "code,name,brand,city,address,lng,lat,datum\n"
        "X1,一店,别家,南京市,中山路1号,118.78,32.04,gcj02\n"
        "X2,二店,别家,南京市,中山路2号,118.79,32.05,nonsense\n"
    )
    world = await demo.load(kernel, other)
    assert (world.stores, world.refused_lines) == (1, 1)
    async with kernel.sessions() as session:
        served = select(Store.code).join(GuideStore, GuideStore.store_id == Store.id).distinct()
        assert list(await session.scalars(served)) == ["X1"]
        clerk = select(Store.code).join(Staff, Staff.store_id == Store.id).where(Staff.account == world.clerk)
        assert await session.scalar(clerk) == "X1"


async def test_a_file_without_a_usable_store_is_refused(kernel: Kernel, tmp_path: Path) -> None:
    empty = tmp_path / "stores.csv"
    empty.write_text("code,name,brand,city,address,lng,lat,datum\nX1,一店,别家,南京市,中山路1号,18.78,999,gcj02\n")
    with pytest.raises(ValueError, match="no usable store"):
        await demo.load(kernel, empty)


def test_every_product_has_a_picture_of_ours_that_is_well_formed() -> None:
    products = json.loads((demo.DATA / "products.json").read_text())
    for product in products:
        picture = ROOT / "web" / product["image"].removeprefix("/")
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("viewBox") == "0 0 480 480"
        assert "http" not in picture.read_text().replace("http://www.w3.org/2000/svg", "")
    assert len({product["image"] for product in products}) == len(products)
