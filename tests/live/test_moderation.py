import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import Refusal
from live.moderation import MAX_CHARACTERS, NAMELESS, WordList, cleaned, named, normalise, review

ANY_TEXT = st.text(st.characters(codec=None), max_size=300) | st.text("好看aB1! \u200b\uff01\u9fff", max_size=30)
SHIPPED = WordList.load()
NONE = WordList([])


@given(ANY_TEXT)
def test_cleaning_and_normalising_twice_changes_nothing(text: str) -> None:
    for form in (cleaned, normalise):
        once = form(text)
        assert form(once) == once
    assert normalise(cleaned(text)) == normalise(text)


@given(ANY_TEXT)
def test_what_is_shown_is_what_was_typed_less_what_draws_nothing(text: str) -> None:
    shown = cleaned(text)
    shown.encode()
    assert shown == " ".join(shown.split())
    assert not any(
        unicodedata.category(c) in ("Cc", "Cs") or (c != "\u200d" and unicodedata.category(c) == "Cf") for c in shown
    )
    rest = iter(text)
    assert all(c == " " or c in rest for c in shown), "nothing is added, and nothing changes places"


@given(ANY_TEXT)
def test_normalised_text_is_one_line_that_can_be_encoded_and_stored(text: str) -> None:
    said = normalise(text)
    said.encode()
    assert said == said.strip()
    assert "  " not in said
    assert unicodedata.is_normalized("NFKC", said)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in said)


@given(ANY_TEXT)
def test_reviewed_text_is_never_empty_nor_too_long(text: str) -> None:
    try:
        said = review(text, SHIPPED)
    except Refusal as refusal:
        assert refusal.code in ("empty", "too_long", "blocked_words")
    else:
        assert 1 <= len(said) <= MAX_CHARACTERS
        assert SHIPPED.find(normalise(said)) is None
        assert review(said, SHIPPED) == said


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("ＡＢＣ１２３！", "ABC123!"),
        ("  好看\t\r\n 吗 ", "好看 吗"),
        ("a\u200bb\u2060c\ufeff", "abc"),
        ("\u202eevil\u202c", "evil"),
        ("e\u200b\u0301", "é"),
        ("a\x00b", "a b"),
        ("👨‍👩‍👧 ❤️", "👨‍👩‍👧 ❤️"),
        ("加\u200d微\u200d信", "加微信"),
        ("half \ud83d pair", "half pair"),
    ],
)
def test_text_is_brought_into_one_form(written: str, shown: str) -> None:
    assert normalise(written) == shown


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b\u200b", "\u3164", "\u2800\u2800", "\u200d", "\u0301", "\x00"])
def test_a_text_that_draws_nothing_is_empty(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        review(text, NONE)
    assert refused.value.code == "empty"


def test_length_counts_what_is_shown_not_what_was_sent() -> None:
    assert review("好" * 200 + "\u200b" * 300, NONE) == "好" * 200
    with pytest.raises(Refusal) as refused:
        review("好" * 201, NONE)
    assert refused.value.code == "too_long"
    with pytest.raises(Refusal) as refused:
        review("\ufdfa" * 12, NONE)  # one character that NFKC makes eighteen of
    assert refused.value.code == "too_long"


@pytest.mark.parametrize(
    "text",
    [
        "加微信",
        "快来加 微 信吧",
        "加.微。信",
        "加*微*信",
        "加ＶＸ聊",
        "加v-x 聊",
        "加\u200b微\u200b信",
        "加 ＱＱ：12345",
        "〖刷〗〖单〗",
        "加溦信",
        "刷單",
        "貸款秒批",
        "免費 領取.現金",
        "微信號",
        "加羣領",
    ],
)
def test_a_listed_word_is_found_behind_width_case_and_padding(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        review(text, SHIPPED)
    assert refused.value.code == "blocked_words"


@pytest.mark.parametrize("text", ["这款多少钱？", "加油！", "信不信由你，微甜", "love it", "单品刷新了吗"])
def test_ordinary_comments_pass(text: str) -> None:
    assert review(text, SHIPPED) == text


@pytest.mark.parametrize("text", ["①号链接", "５０％ ｏｆｆ", "㎡", "ﾊﾛｰ", "e\u0301te\u0301", "２件⑨折？", "👨‍👩‍👧"])
def test_what_is_written_is_shown_as_it_was_written(text: str) -> None:
    assert review(text, SHIPPED) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("小林", "小林"),
        ("小\u202e林", "小林"),
        ("Ａｎｎａ①", "Ａｎｎａ①"),
        ("\u200b\u3164", NAMELESS),
        ("加 微 信", NAMELESS),
        ("加ＶＸ聊", NAMELESS),
    ],
)
def test_a_name_shows_nothing_hidden_and_no_unwanted_word(name: str, shown: str) -> None:
    assert named(name, SHIPPED) == shown


def test_a_latin_word_is_found_only_where_it_stands_alone() -> None:
    words = WordList(["vx"])
    assert words.find("my VX is") == "vx"
    assert words.find("v x") == "vx"
    assert words.find("加vx吧") == "vx"
    assert words.find("lov xiao") is None
    assert words.find("vxa") is None


@given(st.lists(st.sampled_from("加微信好看 .*，Ａa1"), max_size=30).map("".join), st.integers(0, 30))
def test_a_chinese_word_is_found_wherever_it_is_put(around: str, place: int) -> None:
    words = WordList(["刷单"])
    assert words.find(normalise(around[:place] + "刷 单" + around[place:])) == "刷单"


def test_a_word_list_file_has_comments_and_is_told_when_a_line_can_never_match(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# heading\n坏词 # and why\n\n", encoding="utf-8")
    words = WordList.load(file)
    assert len(words) == 1
    assert words.find("这个坏词") == "坏词"
    with pytest.raises(ValueError, match="nothing to look for"):
        WordList(["!!!"])


def test_a_list_in_traditional_characters_finds_simplified_ones() -> None:
    words = WordList(["賭場"])
    assert words.find("去赌 场吧") == "賭場"
    assert words.find("去赌場吧") == "賭場"


def test_what_is_shown_keeps_its_script() -> None:
    assert review("這單買了", SHIPPED) == "這單買了"


def test_the_shipped_list_is_small_but_there() -> None:
    assert 10 < len(SHIPPED) < 100
