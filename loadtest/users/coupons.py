"""Coupons on their way from viewers to tills, within one Locust process."""

from collections import deque

_WAITING: deque[tuple[str, str]] = deque(maxlen=10_000)


def won(code: str, store: str) -> None:
    """A viewer got the coupon ``code`` of the store with that code; of ten thousand waiting ones the oldest go home."""
    _WAITING.append((code, store))


def next_one() -> tuple[str, str] | None:
    """Code and store of one that is brought to a till now."""
    return _WAITING.popleft() if _WAITING else None


def any_waiting() -> bool:
    """Whether somebody waits."""
    return bool(_WAITING)
