"""How often users of a load test do what: ``loadtest/evening.toml``, or a file of one's own that changes some of it."""

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USUAL = Path(__file__).with_name("evening.toml")


class BadConfig(Exception):
    """A configuration or budget file is wrong; the message names file, line and reason."""


@dataclass(frozen=True)
class Users:
    """How many of each kind, in proportion."""

    viewer: float
    guide: int
    clerk: float


@dataclass(frozen=True)
class ViewerTasks:
    """Weights of a ViewerUser."""

    comment: float
    like: float
    tap: float
    locate: float
    leave: float
    reconnect: float
    wait: tuple[float, float]
    located: float = field(metadata={"share": True})
    claim: float = field(metadata={"share": True})
    claim_within: float


@dataclass(frozen=True)
class GuideTasks:
    """Weights of a GuideUser."""

    pin: float
    announce: float
    drop: float
    wait: tuple[float, float]
    stock: int
    drop_seconds: int


@dataclass(frozen=True)
class ClerkTasks:
    """Weights of a ClerkUser."""

    redeem: float
    mistyped: float
    unknown: float
    twice: float
    wait: tuple[float, float]


@dataclass(frozen=True)
class SwarmPace:
    """Seconds between two of the same, for each viewer (or guide); 0: never."""

    comment_every: float
    like_every: float
    tap_every: float
    locate_every: float
    leave_every: float
    lose_every: float
    comments_at_most: float
    joins_per_second: float = field(metadata={"positive": True})
    pin_every: float
    announce_every: float
    drop_every: float


@dataclass(frozen=True)
class Config:
    """The whole file."""

    users: Users
    viewer: ViewerTasks
    guide: GuideTasks
    clerk: ClerkTasks
    swarm: SwarmPace


SECTIONS: dict[str, Any] = {
    "users": Users, "viewer": ViewerTasks, "guide": GuideTasks, "clerk": ClerkTasks, "swarm": SwarmPace,
}  # fmt: skip


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """The file's tables, and its text. Raises BadConfig."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: cannot be read: {error}") from error
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{path}: {error}") from error


def line_of(text: str, section: str, key: str | None = None) -> int:
    """Where ``key`` of ``[section]`` stands in a TOML file's text; the section's own line without a key. From 1."""
    inside, head = False, 0
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[([^\[\]]+)\]", line):
            inside = found[1].strip().strip("\"'") == section
            head = number if inside else head
            if inside and key is None:
                return number
        elif inside and key is not None and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
            return number
    return head or 1


def load(path: Path | None = None) -> Config:
    """The usual configuration, changed by what ``path`` says. Raises BadConfig."""
    usual, _ = read_toml(USUAL)
    merged: dict[str, dict[str, Any]] = usual
    if path is not None:
        given, text = read_toml(path)
        for name, section in given.items():
            known = SECTIONS.get(name)
            where = f"{path}, line {line_of(text, name)}"
            if known is None:
                raise BadConfig(f"{where}: [{name}] is not one of {', '.join(f'[{s}]' for s in SECTIONS)}")
            if not isinstance(section, dict):
                raise BadConfig(f"{where}: {name} must be a section, [{name}]")
            for key, value in section.items():
                _check(known, key, value, f"{path}, line {line_of(text, name, key)}: [{name}] {key}")
            merged[name] = merged[name] | section
    return Config(**{name: _section(kind, merged[name]) for name, kind in SECTIONS.items()})


def _section(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _check(kind: Any, key: str, value: Any, where: str) -> None:
    fields = {each.name: each for each in dataclasses.fields(kind)}
    if key not in fields:
        raise BadConfig(f"{where} is not known; there are {', '.join(fields)}")
    if key == "wait":
        if not (isinstance(value, list) and len(value) == 2 and all(_number(v) for v in value)):
            raise BadConfig(f"{where} must be two numbers of seconds, such as [2.0, 8.0], not {value!r}")
        if not 0 <= value[0] <= value[1]:
            raise BadConfig(f"{where} must begin with the shorter wait, not {value!r}")
        return
    if not _number(value) or value < 0:
        raise BadConfig(f"{where} must be a number, 0 or more, not {value!r}")
    if fields[key].type is int and not isinstance(value, int):
        raise BadConfig(f"{where} must be a whole number, not {value!r}")
    if fields[key].metadata.get("share") and value > 1:
        raise BadConfig(f"{where} is a share, 0 to 1, not {value!r}")
    if fields[key].metadata.get("positive") and not value:
        raise BadConfig(f"{where} must be more than 0")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) < 1e12
