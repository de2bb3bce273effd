"""What simulated viewers say: texts as long as real ones, each with the moment of sending in its last two signs.

The lengths are those of 3,000 danmaku lines of one evening, measured once (mean 5.7 characters, half of them exactly 3,
1 in 20 longer than 18, the longest 98); only the distribution is kept, never a line.

The stamp does not lengthen a text, because then lengths would no longer be those: its last two characters are from a
block of rare ideographs that no comment and no word list uses, 12 bits each, and say the milliseconds of sending modulo
4.7 hours. So delay is known to whoever hears the text, in whatever process, if its clock agrees with the sender's.
"""

from bisect import bisect_left
from random import Random

LENGTHS = (
    (1, 0.008), (2, 0.034), (3, 0.671), (4, 0.730), (5, 0.755), (6, 0.789), (7, 0.812), (8, 0.832), (9, 0.858),
    (10, 0.872), (12, 0.901), (14, 0.922), (17, 0.942), (20, 0.958), (25, 0.978), (30, 0.987), (36, 0.995),
    (44, 0.999), (98, 1.0),
)  # fmt: skip
"""Characters, and which part of all comments has no more."""
_AT_MOST = [part for _, part in LENGTHS]
_SIGNS = "来了好看想要多少钱呀附近哪家店有货这款真可以今晚再囤一份谢谢主播颜色很温柔下次带朋友去试等券"
_FIRST = 0x3400
_BITS = 12
_MASK = (1 << _BITS) - 1
SPAN_MS = 1 << 2 * _BITS
"""A stamp is understood within this time of its making."""


def length(chance: Random) -> int:
    """How many characters the next comment has, 1 to 98."""
    place = bisect_left(_AT_MOST, chance.random())
    low = LENGTHS[place - 1][0] + 1 if place else 1
    return chance.randint(low, LENGTHS[place][0])


def stamp(now_ms: int) -> str:
    """``now_ms`` as two characters."""
    return chr(_FIRST + (now_ms >> _BITS & _MASK)) + chr(_FIRST + (now_ms & _MASK))


def stamped_at(text: str, now_ms: int) -> int | None:
    """When ``text`` was sent, in ms since 1970, as told by its last two characters; None if it bears no stamp."""
    if len(text) < 2:
        return None
    high, low = ord(text[-2]) - _FIRST, ord(text[-1]) - _FIRST
    if not (0 <= high <= _MASK and 0 <= low <= _MASK):
        return None
    # The newest moment with these digits that is not in the future, but for a second by which clocks may differ.
    return now_ms + 1000 - (now_ms + 1000 - (high << _BITS | low)) % SPAN_MS


def comment(chance: Random, now_ms: int) -> str:
    """A comment of real length, stamped; never shorter than the stamp."""
    return "".join(chance.choices(_SIGNS, k=max(0, length(chance) - 2))) + stamp(now_ms)
