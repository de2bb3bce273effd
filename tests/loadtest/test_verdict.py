"""Figures are what was told, and a budget that is not held fails the test."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest import budgets, figures, report
from loadtest.config import BadConfig
from loadtest.shapes import SHAPES
from loadtest.swarm.plan import Tick, percentile, rounded
from loadtest.watch import Sample

FINE = {"certain": {10: 98, 200: 2}, "missed": {1400: 3}, "latest": {900: 10}, "lossy": {50: 100}}


def evening(**last: object) -> list[Tick]:
    """Twenty good seconds; ``last`` changes the last of them."""
    ticks = [
        Tick(
            float(t), at=1000.0 + t, viewers=10 * t, wanted=10 * t, deliveries=100 * t, frames=50, comments=3,
            delays=dict(FINE), answers={"join": {20: 10}, "comment": {5: 3}, "return": {1500: 2}, "claim": {90: 4}},
            outcomes={"comment": {"ok": 2, "too_fast": 1}, "claim": {"ok": 3, "sold_out": 1}}, recovered=2, cpu=0.3,
        )
        for t in range(1, 21)
    ]  # fmt: skip
    for name, value in last.items():
        setattr(ticks[-1], name, value)
    return [*ticks, Tick(21.0, at=1021.0, phase="end", viewers=200, wanted=200)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_good_evening_holds_the_shipped_budgets_of_every_shape(shape: str) -> None:
    lines = budgets.verdict(budgets.load(shape), figures.of(evening(), [100.0] * 20))
    assert [str(line) for line in lines if not line.held] == []
    assert len(lines) >= 9


@pytest.mark.parametrize(
    ("last", "figure", "seen"),
    [
        ({"failures": {"certain lost": 1}}, "certain_lost", 1),
        ({"failures": {"certain out of order": 2}}, "certain_disordered", 2),
        ({"failures": {"comment: internal": 3, "claim: no answer": 1}}, "failed", 4),
        ({"delays": {"certain": {300: 1000}}}, "certain_p99_ms", 300),
        ({"answers": {"join": {9000: 1000}}}, "join_p99_ms", 9000),
        ({"wanted": 400}, "let_in", 0.5),
    ],
)
def test_a_broken_budget_fails(last: dict[str, object], figure: str, seen: float) -> None:
    lines = budgets.verdict(budgets.load("peak"), figures.of(evening(**last)))
    (failed,) = [line for line in lines if not line.held]
    assert (failed.budget.figure, failed.seen) == (figure, seen)
    assert str(failed).startswith("FAIL")


def test_unrecovered_resumes_unanswered_claims_and_growing_memory_are_seen() -> None:
    found = figures.of(evening(unrecovered=40, failures={"claim: no answer": 20}), [100.0] * 10 + [150.0] * 10)
    assert (found["recovered"], found["claims_answered"], found["memory_growth"]) == (0.5, 0.8, 1.5)


def test_a_budget_that_nothing_can_be_judged_by_is_not_held() -> None:
    (line,) = budgets.verdict([budgets.Budget("recovered", at_least=0.9)], figures.of([Tick(1.0)]))
    assert not line.held
    assert "nothing to judge" in str(line)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("[all]\n\ncertain_p98_ms = { at_most = 1 }\n", 3, "certain_p98_ms is no figure of a test"),
        ("[all]\nfailed = 3\n", 2, "needs { at_most"),
        ("[all]\nfailed = { at_mots = 3 }\n", 2, "needs { at_most"),
        ("[all]\nfailed = { at_most = '3' }\n", 2, "a number as its limit"),
        ("[peek]\nfailed = { at_most = 3 }\n", 1, r"\[peek\] is neither \[all\] nor a shape"),
    ],
)
def test_a_wrong_budget_file_is_refused_with_line_and_reason(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    with pytest.raises(BadConfig, match=f"line {line}: .*{reason}"):
        budgets.load("peak", path)


def test_the_generator_is_named_when_it_was_the_limit() -> None:
    assert figures.limited_by_generator(evening()) is None
    busy, late = evening(), evening()
    for tick in busy[10:13]:
        tick.cpu = 0.97
    for tick in late[10:13]:
        tick.lag = 0.4
    assert figures.limited_by_generator(busy) == ("用了它那个核的 97%", "it used 97% of its core")
    assert figures.limited_by_generator(late) == ("自己的定时器晚了 400 毫秒", "its own timers were 400 ms late")


def test_of_servers_that_were_full_those_are_named_who_used_them() -> None:
    def samples(**cpu: float) -> list[Sample]:
        return [Sample(1000.0 + t, {name.replace("_", " "): share for name, share in cpu.items()}) for t in range(20)]

    shared = samples(gateway_1=0.41, gateway_2=0.4, postgres=0.13, worker=0.04)
    full = figures.full_servers(shared, cores=1)
    assert full is not None
    assert full.en == "the servers' core was 98% used (gateway 1 41%, gateway 2 40%, postgres 13%)"
    assert figures.full_servers(shared, cores=2) is None
    assert figures.full_servers(samples(postgres=1.6, api=0.1), cores=4) is None
    alone = figures.full_servers(samples(gateway_1=0.97, api=0.1), cores=0)
    assert alone is not None
    assert alone.en == "these processes filled a core: gateway 1 97%"
    assert figures.full_servers([Sample(1000.0)], cores=1) is None


def test_percentiles_are_of_all_and_rounding_is_locusts() -> None:
    assert [percentile(FINE["certain"], part) for part in (0.5, 0.98, 0.99)] == [10, 10, 200]
    assert [rounded(ms) for ms in (7, 99, 147, 3432, 58_760)] == [7, 99, 150, 3400, 59_000]


class Reading(HTMLParser):
    """What a browser would fetch, and how many pictures there are."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.lines = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href")]
        self.lines += tag == "polyline"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_stands_alone_and_shows_verdict_pictures_and_warnings() -> None:
    ticks = evening(failures={"certain lost": 1}, struck=True)
    samples = [
        Sample(1000.0 + t, {"api": 0.2, "gateway 1": 0.5}, {"api": 90.0, "gateway 1": 60.0}, shed=float(t))
        for t in range(20)
    ]
    found = figures.of(ticks)
    story = report.Story(
        "peak", "one room", "here", "2 <b>cores", "2026-11-22", ticks, samples,
        budgets.verdict(budgets.load("peak"), found), found, generator=figures.Said("用了 97%", "it used 97%"),
        servers=figures.Said("服务器的核用满", "the servers' core was full"), notes=["a note"],
    )  # fmt: skip
    html = report.page(story)
    page = Reading()
    page.feed(html)
    assert not story.held
    assert page.fetched == []
    assert "2 &lt;b&gt;cores" in html
    # Delays of three classes twice, viewers, deliveries, joins twice each, shed, CPU of three, memory of two.
    assert page.lines == 6 + 2 + 2 + 2 + 1 + 3 + 2
    for said in ("FAIL", "未通过", "瓶颈是压测机", "The generator, not the server", "What gave out: the servers'",
                 "certain lost 1", "a note"):  # fmt: skip
        assert said in page.text


def test_a_test_that_was_broken_off_is_no_pass_whatever_it_saw() -> None:
    ticks = evening()
    lines = budgets.verdict(budgets.load("peak"), figures.of(ticks))
    story = report.Story("peak", "", "", "", "", ticks, [], lines, {}, servers=figures.Said("满", "full"))
    assert story.held
    assert story.warnings() == [], "what was full is of interest where something gave way"
    story.cut_short = True
    assert not story.held
    assert "中断" in report.page(story)
