"""What may be said: text as it is shown, measured, and looked through for words that are not wanted.

Shown is what was typed, but for what draws nothing; sought in, and told from what was said before, is one form of it.

Pure: no clock, no I/O but the reading of a word list. ``review`` costs some 20 µs for a usual comment, 0.3 ms for one
of 200 characters.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import ahocorasick

from kernel.errors import Refusal
from live.wire import MAX_TEXT

MAX_CHARACTERS = MAX_TEXT
"""Characters of a text, as shown and after ``normalise``."""
NAMELESS = "微信用户"
"""What WeChat calls somebody without a name."""
SHIPPED_WORDS = Path(__file__).with_name("words.txt")

_ZERO_WIDTH_JOINER = "\u200d"
# They draw nothing, but Unicode calls them letters or marks: Hangul fillers, the grapheme joiner, Khmer's inherent
# vowels, the blank Braille pattern, variation selectors but the emoji one.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE0F))))
# A joiner holds an emoji together (👨‍👩‍👧); anywhere else it only hides something.
_STRAY_JOINER = re.compile("(?<![\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d")
# Most texts: nothing in them is to be taken out, and NFKC leaves them as they are.
_SETTLED = re.compile("[!-~\u4e00-\u9fff]+(?: [!-~\u4e00-\u9fff]+)*")

# Variant, then the character that words are sought with.
_VARIANTS = (
    "羣群 單单 職职 結结 賺赚 貸贷 領领 現现 費费 賭赌 場场 號号 掃扫 釦扣 個个 給给 錢钱 專专 "
    "賣卖 買买 價价 優优 發发 財财 網网 點点 擊击 鏈链 連连 聯联 繫系 係系 電电 話话 機机 碼码 "
    "紅红 區区 視视 頻频 騙骗 偽伪 詐诈 殺杀 黃黄 賬账 帳账 帐账 戶户 轉转 匯汇 銀银 貨货 藥药 "
    "槍枪 髒脏 國国 黨党 獨独 臺台 灣湾 產产 業业 務务 員员 關关 註注 進进 來来 這这 裡里 裏里 "
    "們们 對对 開开 門门 時时 間间 學学 體体 壞坏 說说 騷骚 擾扰 幫帮 辦办 證证 溦微 "
)
_SIMPLIFIED = {pair[0]: pair[1] for pair in _VARIANTS.split()}


def _drawn(character: str) -> bool:
    # Cf: zero-width and bidirectional controls; Cs: half a surrogate pair, which no encoding can carry.
    return character == _ZERO_WIDTH_JOINER or not (
        character in _BLANK or unicodedata.category(character) in ("Cf", "Cs")
    )


def cleaned(text: str) -> str:
    """``text`` without characters that draw nothing or turn its direction, every stretch of white space one space.

    Control characters count as white space. ``cleaned(cleaned(x)) == cleaned(x)``.
    """
    while not _SETTLED.fullmatch(text):
        spaced = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        result = " ".join(_STRAY_JOINER.sub("", "".join(filter(_drawn, spaced))).split())
        if result == text:
            break
        text = result
    return text


def normalise(text: str) -> str:
    """The one form of all texts that look like ``text``: cleaned, in NFKC. Normalising twice changes nothing."""
    while not _SETTLED.fullmatch(text):
        result = cleaned(unicodedata.normalize("NFKC", cleaned(text)))
        # What was taken out may have kept a letter and its accent apart, so look again until nothing changes.
        if result == text:
            break
        text = result
    return text


def _fold(text: str) -> Iterator[tuple[str, int]]:
    """The letters and digits of ``text`` without case, each with the place it came from: what words are sought in.

    Traditional characters count as their simplified ones, for some hundred that such words are made of (``_VARIANTS``):
    a table of our own, far from all of Chinese. Characters that only look or sound alike (薇信 for 微信) are not
    known here; a list names them.
    """
    for place, character in enumerate(text):
        if unicodedata.category(character)[0] in "LN":
            for folded in character.casefold():
                yield _SIMPLIFIED.get(folded, folded), place


class WordList:
    """Words that are not wanted, sought all at once (Aho–Corasick), whatever the case, width, padding or script.

    Reload by making a new one and putting it in the old one's place. Raises ValueError for a word without letters.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for word in words:
            key = "".join(folded for folded, _ in _fold(normalise(word)))
            if not key:
                raise ValueError(f"nothing to look for in {word!r}")
            self._automaton.add_word(key, (key, word))
        if len(self._automaton):
            self._automaton.make_automaton()

    @classmethod
    def load(cls, path: Path = SHIPPED_WORDS) -> "WordList":
        """The words in a file: UTF-8, one a line, ``#`` begins a comment."""
        lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
        return cls(line for line in lines if line)

    def __len__(self) -> int:
        return len(self._automaton)

    def find(self, text: str) -> str | None:
        """The first unwanted word in ``text`` (in the form of ``normalise``), as the list spells it, or None."""
        if not len(self._automaton):
            return None
        folded = list(_fold(text))
        for last, (key, word) in self._automaton.iter("".join(letter for letter, _ in folded)):
            begin, end = folded[last - len(key) + 1][1], folded[last][1] + 1
            # A Latin word must stand alone: "vx" is not in "lov xiao". Chinese knows no such edges.
            if not (_continues(text[begin - 1 : begin], text[begin]) or _continues(text[end - 1], text[end : end + 1])):
                return str(word)
        return None


def _continues(left: str, right: str) -> bool:
    """Are these neighbours parts of one Latin word?"""
    return left.isascii() and left.isalpha() and right.isascii() and right.isalpha()


def review(text: str, words: WordList) -> str:
    """``text`` as it may be shown to the room; Refusal ``empty``, ``too_long`` or ``blocked_words``."""
    shown = cleaned(text)
    said = normalise(shown)
    if all(unicodedata.category(character)[0] in "ZMC" for character in said):
        raise Refusal("empty")
    if max(len(shown), len(said)) > MAX_CHARACTERS:
        raise Refusal("too_long", field="text", limit=MAX_CHARACTERS)
    if words.find(said) is not None:
        raise Refusal("blocked_words")  # which word is not told: that would teach how to get around it
    return shown


def named(name: str, words: WordList) -> str:
    """``name`` as a room may see it; ``NAMELESS`` where it draws nothing or has an unwanted word in it."""
    try:
        return review(name, words)
    except Refusal:
        return NAMELESS


def titled(title: str) -> str:
    """``title`` as a room may bear it. Refusal ``invalid`` where it draws nothing."""
    if not (shown := cleaned(title)):
        raise Refusal("invalid", "A title needs something to read.", field="title")
    return shown
