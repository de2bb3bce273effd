"""``geo.store_file``: which lines are stores, and what is said of those that are not."""

from pathlib import Path

import pytest

from geo.store_file import BadLine, StoreLine, Unreadable, examine, read

HEADER = "code,name,brand,city,address,lng,lat,datum"
GOOD = "A1,People's Square,Tea,上海市,1 Nanjing Rd,121.47,31.23,gcj02"


def rows(tmp_path: Path, text: str | bytes) -> list[StoreLine | BadLine]:
    path = tmp_path / "stores.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read(path, examine(path)))


def one(tmp_path: Path, line: str, header: str = HEADER) -> StoreLine | BadLine:
    (only,) = rows(tmp_path, f"{header}\n{line}\n")
    return only


def reason(tmp_path: Path, line: str, header: str = HEADER) -> str:
    bad = one(tmp_path, line, header)
    assert isinstance(bad, BadLine), bad
    assert bad.line == 2
    return bad.reason


def test_a_good_line_becomes_a_store_in_both_frames(tmp_path: Path) -> None:
    store = one(tmp_path, GOOD.replace("gcj02", " WGS84 "))
    assert isinstance(store, StoreLine)
    assert (store.code, store.banner, store.city, store.lng, store.lat) == ("A1", "Tea", "上海市", 121.47, 31.23)
    assert store.datum == "wgs84"
    assert store.canonical[0] - 121.47 == pytest.approx(0.0045, abs=0.001)
    assert (store.radius_m, store.opens, store.area) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (",n,b,c,a,121,31,gcj02", "code is empty"),
        ("A,n,b,c,  ,121,31,gcj02", "address is empty"),
        ("A,n,b,c,a,121,31", "column datum is missing"),
        ("A,n,b,c,a,121,31,gcj02,oops", "9 fields where the header has 8"),
        ("A,n,b,c,a,east,31,gcj02", 'lng "east" is not a number'),
        ("A,n,b,c,a,nan,31,gcj02", 'lng "nan" is not a number'),
        ("A,n,b,c,a,121,inf,gcj02", 'lat "inf" is not a number'),
        ('A,n,b,c,a,"121,4",31,gcj02', 'lng "121,4" is not a number'),
        ("A,n,b,c,a,1_21,31,gcj02", 'lng "1_21" is not a number'),
        ("A,n,b,c,a,181,31,gcj02", "lng 181 is out of range"),
        ("A,n,b,c,a,-74,-90.5,gcj02", "lat -90.5 is out of range"),
        ("A,n,b,c,a,0,0,gcj02", "both 0"),
        ("A,n,b,c,a,31.23,121.47,gcj02", "lng and lat are swapped"),
        ("A,n,b,c,a,39.47,75.99,gcj02", "lng and lat are swapped"),
        ("A,n,b,c,a,121,31,gcj-2", 'unknown datum "gcj-2"'),
        (f"A,{'n' * 201},b,c,a,121,31,gcj02", "name is longer than 200"),
        ("A,n\x01,b,c,a,121,31,gcj02", "name contains a control character"),
        ('A,"n"x,b,c,a,121,31,gcj02', "not CSV"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_with_its_reason(tmp_path: Path, line: str, said: str) -> None:
    assert said in reason(tmp_path, line)


def test_a_place_abroad_is_not_taken_for_a_swapped_one(tmp_path: Path) -> None:
    for lng, lat in [(126.978, 37.566), (-0.12, 51.5), (13.4, 52.5), (31.24, 30.04), (25.7, 71.1)]:
        assert isinstance(one(tmp_path, f"A,n,b,c,a,{lng},{lat},wgs84"), StoreLine)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("radius_m", "49", "whole number of metres from 50 to 50000"),
        ("radius_m", "50001", "whole number of metres"),
        ("radius_m", "3km", "whole number of metres"),
        ("radius_m", "-5", "whole number of metres"),
        ("opens", "25:00", 'opens "25:00" is not a time'),
        ("opens", "9", "not a time"),
        ("closes", "22:61", 'closes "22:61" is not a time'),
        ("opens", "09:00", "go together"),
        ("trade_area", "{", "trade_area is not JSON"),
        ("trade_area", '{"type":"Point","coordinates":[121,31]}', "trade_area is not a GeoJSON Polygon"),
    ],
)  # fmt: skip
def test_a_bad_optional_column_is_refused_with_its_reason(tmp_path: Path, column: str, value: str, said: str) -> None:
    quoted = '"' + value.replace('"', '""') + '"'
    assert said in reason(tmp_path, f"{GOOD},{quoted}", f"{HEADER},{column}")


def test_optional_columns_are_read_in_any_order(tmp_path: Path) -> None:
    store = one(tmp_path, f"9:30,24:00,1500,{GOOD}", f"opens,closes,radius_m,{HEADER}")
    assert isinstance(store, StoreLine)
    assert (store.radius_m, str(store.opens), str(store.closes)) == (1500, "09:30:00", "00:00:00")


def test_the_second_use_of_a_code_is_refused_and_names_the_first(tmp_path: Path) -> None:
    bad_first = "A1,n,b,c,a,east,31,gcj02"
    found = rows(tmp_path, "\n".join([HEADER, bad_first, GOOD, GOOD.replace("Square", "Park")]))
    assert [type(item) for item in found] == [BadLine, StoreLine, BadLine]
    assert str(found[2]) == "line 4 (A1): code A1 was already on line 3"


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    text = f'\n{HEADER}\n\nA,"two\nlines",b,c,"x\ny\nz",121,31,gcj02\n,n,b,c,a,121,31,gcj02\n\nB,n,b,c,a,x,31,gcj02'
    found = rows(tmp_path, text)
    assert [item.line for item in found] == [4, 8, 10]
    assert isinstance(found[0], StoreLine)
    assert (found[0].name, found[0].address) == ("two lines", "x y z")
    assert [item.line for item in rows(tmp_path, text.replace("\n", "\r\n"))] == [4, 8, 10]


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert len(rows(tmp_path, b"\xef\xbb\xbf" + f"{HEADER}\n{GOOD}\n".encode())) == 1


def test_a_quote_that_is_never_closed_costs_what_it_swallowed_and_says_so(tmp_path: Path) -> None:
    found = rows(tmp_path, f'{HEADER}\n{GOOD}\nB,"n,b,c,a,121,31,gcj02\nC,n,b,c,a,121,31,gcj02\n')
    assert isinstance(found[0], StoreLine)
    assert str(found[1]).startswith("line 3: not CSV (read up to line 4)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\n\n", "empty"),
        (f"{HEADER}\nA,静安寺店,b,c,a,121,31,gcj02".encode("gbk"), "line 2 is not UTF-8"),
        (f"{HEADER}\n{GOOD}".encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not text"),
        (f"{HEADER}\n{GOOD}".encode()[:-1] + "静".encode()[:2], "middle of a character"),
        (b"code,name\nA,b", "lacks brand, city, address, lng, lat, datum"),
        (HEADER.replace(",", ";").encode(), "separated by commas"),
        (HEADER.encode() + b",lng\n", "lng twice"),
        (b"a" * (3 << 20), "longer than 1 MB"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_list_of_stores_is_refused_as_a_whole(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        rows(tmp_path, content)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(Unreadable):
            examine(path)


def test_unknown_columns_are_named_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "stores.csv"
    path.write_text(f"{HEADER},owner\n{GOOD},me\n")
    contents = examine(path)
    assert contents.ignored == ("owner",)
    assert contents.lines == 2
    assert isinstance(next(read(path, contents)), StoreLine)
