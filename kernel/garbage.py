"""When Python looks for garbage in a process that serves."""

import gc

AFTER = (10_000, 2, 700)
"""Objects made, and rounds, until garbage is looked for. Viewers and coupons come by the thousand and hardly anything
here forms cycles: by the usual (700, 10, 10) a tenth of a storm of joins, and half of a push drop, was spent on looking
at what had just been made. What survives its first look is looked at once more, with at most twice as much again:
(20_000, 20, 50) looked at 400,000 objects in one go, a tenth of a second in which no room was served."""


def settle() -> None:
    """Call it once a process has started: what the start left behind is not looked at again, and the rest seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*AFTER)
