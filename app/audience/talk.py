"""What simulated viewers say: Chinese live-room comments, mostly very short, now and then a whole story.

Lengths follow live rooms: half of the comments have at most four characters, one in twenty more than eighteen.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

_PHRASES = msgspec.json.decode(Path(__file__).with_name("phrases.json").read_bytes(), type=dict[str, list[str]])


class Talk:
    """A source of comments; the same ``chance`` gives the same talk."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._kinds: tuple[Callable[[], str], ...] = (
            self._call, self._praise, self._question, self._sentence, self._story,
        )  # fmt: skip

    def comment(self) -> str:
        """The next comment, 1 to about 100 characters."""
        (kind,) = self._chance.choices(self._kinds, (54, 21, 14, 7, 4))
        return kind()

    def question(self) -> str:
        """A question to the guide."""
        return self._question()

    def _call(self) -> str:
        return self._chance.choice(_PHRASES["calls"])

    def _praise(self) -> str:
        return self._chance.choice(_PHRASES["praise"]) + self._chance.choice(_PHRASES["tails"])

    def _question(self) -> str:
        return self._fill(self._chance.choice(_PHRASES["questions"])) + self._chance.choice(("", "？", "?", "？？"))

    def _sentence(self) -> str:
        return self._fill(
            "，".join((self._chance.choice(_PHRASES["openings"]), self._chance.choice(_PHRASES["endings"])))
        )

    def _story(self) -> str:
        middles = self._chance.sample(_PHRASES["middles"], self._chance.choice((1, 2, 2, 3)))
        return (
            self._fill(
                "，".join(
                    (self._chance.choice(_PHRASES["openings"]), *middles, self._chance.choice(_PHRASES["endings"]))
                )
            )
            + "。"
        )

    def _fill(self, pattern: str) -> str:
        return pattern.format(
            place=self._chance.choice(_PHRASES["places"]), item=self._chance.choice(_PHRASES["items"])
        )
