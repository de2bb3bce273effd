"""Budgets of a load test, and the verdict: one line for each, PASS or FAIL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.config import BadConfig, line_of, read_toml
from loadtest.figures import FIGURES
from loadtest.shapes import SHAPES

USUAL = Path(__file__).with_name("budgets.toml")
_SIDES = ("at_most", "at_least")


@dataclass(frozen=True)
class Budget:
    """A limit for one figure."""

    figure: str
    at_most: float | None = None
    at_least: float | None = None

    def says(self) -> str:
        """Such as ``≤ 250``."""
        parts = [(self.at_least, "≥"), (self.at_most, "≤")]
        return " and ".join(f"{sign} {limit:g}" for limit, sign in parts if limit is not None)


@dataclass(frozen=True)
class Line:
    """A budget and what was seen; ``seen`` is None where nothing was: a budget that cannot be judged is not held."""

    budget: Budget
    seen: float | None

    @property
    def held(self) -> bool:
        """Whether it was held."""
        if self.seen is None:
            return False
        low, high = self.budget.at_least, self.budget.at_most
        return (low is None or self.seen >= low) and (high is None or self.seen <= high)

    def __str__(self) -> str:
        seen = "nothing to judge it by" if self.seen is None else f"{self.seen:,.0f}"
        if self.seen is not None and self.seen < 100:
            seen = f"{self.seen:.4g}"
        return f"{'PASS' if self.held else 'FAIL'}  {self.budget.figure:<20} {self.budget.says():>10}   seen: {seen}"


def load(shape: str, path: Path | None = None) -> list[Budget]:
    """The budgets of ``shape`` in the file. Raises BadConfig."""
    path = path or USUAL
    sections, text = read_toml(path)
    for section, lines in sections.items():
        if section != "all" and section not in SHAPES:
            where = f"{path}, line {line_of(text, section)}"
            raise BadConfig(f"{where}: [{section}] is neither [all] nor a shape ({', '.join(SHAPES)})")
        if not isinstance(lines, dict):
            raise BadConfig(f"{path}, line {line_of(text, section)}: {section} must be a section")
        for name, limits in lines.items():
            _check(name, limits, f"{path}, line {line_of(text, section, name)}: {name}")
    chosen = sections.get("all", {}) | sections.get(shape, {})
    return [Budget(name, **limits) for name, limits in chosen.items()]


def _check(name: str, limits: Any, where: str) -> None:
    if name not in FIGURES:
        raise BadConfig(f"{where} is no figure of a test; there are {', '.join(FIGURES)}")
    if not isinstance(limits, dict) or not limits or set(limits) - set(_SIDES):
        raise BadConfig(f"{where} needs {{ at_most = … }} or {{ at_least = … }}, not {limits!r}")
    for value in limits.values():
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            raise BadConfig(f"{where} must have a number as its limit, not {value!r}")


def verdict(budgets: Sequence[Budget], figures: Mapping[str, float | None]) -> list[Line]:
    """Each budget against what was seen."""
    return [Line(budget, figures.get(budget.figure)) for budget in budgets]
