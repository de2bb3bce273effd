"""Who the simulated viewers are: account, name and tier follow from a viewer's number, the same on every run."""

from random import Random

_FIRST = (
    "小鹿", "阿茶", "南风", "栗子", "慢慢", "西瓜", "晚晚", "一勺糖", "云朵", "山楂", "橘子", "阿宁", "豆包",
    "青柠", "桃桃", "麦子", "海盐", "阿布", "七月", "半夏", "芋圆", "小满", "木木", "清欢", "十一", "可乐",
    "花卷", "石榴", "阿岚", "乌龙",
)  # fmt: skip
_LAST = (
    "爱喝茶", "不加班", "在路上", "想睡觉", "吃饱了", "今天也开心", "要早睡", "的猫", "同学", "小姐", "先生",
    "妈妈", "酱", "呀", "在杭州", "在上海", "Lee", "2026", "_77", "", "", "",
)  # fmt: skip


def account(number: int) -> str:
    """What viewer ``number`` (from 1) signs in with."""
    return f"v-{number:04d}"


def name(number: int) -> str:
    """A nickname as people give themselves; two viewers may share one, as in life."""
    chance = Random(f"name {number}")  # noqa: S311 - nothing here is a secret
    return chance.choice(_FIRST) + chance.choice(_LAST)


def tier(number: int) -> int:
    """0 (most people) to 3 (very few)."""
    return Random(f"tier {number}").choices((0, 1, 2, 3), (60, 25, 11, 4))[0]  # noqa: S311


def orders(number: int) -> int:
    """Purchases the brand knows of: none for a third of tier 0, more in higher tiers."""
    return Random(f"orders {number}").randint(0, 2) + tier(number) * 4  # noqa: S311
