"""The report of a load test: one HTML file that needs nothing else, for a phone. Chinese; English is one tap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path

from loadtest.budgets import Line
from loadtest.charts import Series, chart, words
from loadtest.figures import FIGURES, Said, Totals
from loadtest.swarm.plan import Histogram, Tick, percentile
from loadtest.watch import Sample

NAMES = {
    "certain": words("必达", "certain"), "latest": words("最新值", "latest"), "lossy": words("评论", "comments"),
    "certain_p50_ms": "必达延迟 中位", "certain_p95_ms": "必达延迟 p95", "certain_p99_ms": "必达延迟 p99",
    "missed_p99_ms": "离开期间的必达，补到为止 p99",
    "latest_p99_ms": "计数延迟 p99", "lossy_p50_ms": "评论延迟 中位", "lossy_p99_ms": "评论延迟 p99",
    "certain_lost": "必达丢失", "certain_disordered": "必达乱序", "join_p99_ms": "进房 p99",
    "return_p99_ms": "断线到回房 p99", "comment_ack_p99_ms": "评论应答 p99", "claim_p99_ms": "抢券应答 p99",
    "claims_answered": "抢券应答率", "recovered": "完整恢复率", "let_in": "进房率", "failed": "失败",
    "viewers": "最高同时在线", "deliveries_per_s": "每秒送达 (最忙十秒)", "memory_growth": "内存增长",
}  # fmt: skip
STYLE = Path(__file__).with_name("report.css").read_text()


@dataclass
class Story:
    """What a report tells."""

    shape: str
    says: str
    """What was played, in both languages (HTML), as ``where`` and ``notes`` are."""
    where: str
    """A private stack, or the deployment's address."""
    machine: str
    began: str
    ticks: Sequence[Tick]
    samples: Sequence[Sample]
    lines: Sequence[Line]
    figures: dict[str, float | None]
    generator: Said | None = None
    """Why the generator was the limit; None where it was not."""
    servers: Said | None = None
    """What of the servers was full; None where nothing was."""
    cut_short: bool = False
    """It was broken off, so that what would have come later is not in it."""
    notes: Sequence[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether it was played to its end, and every budget was held."""
        return not self.cut_short and all(line.held for line in self.lines)

    def warnings(self) -> list[Said]:
        """What to know before one reads on."""
        found = []
        if self.generator is not None:
            zh, en = self.generator
            found.append(Said(f"瓶颈是压测机，不是服务器：{zh}", f"The generator, not the server, was the limit: {en}"))
        if self.servers is not None and not self.held:
            zh, en = self.servers
            found.append(Said(f"先用满的是：{zh}", f"What gave out: {en}"))
        if self.cut_short:
            zh = "测试被中断：预算只按到那时为止的数字来判，不能算通过"
            found.append(
                Said(zh, "It was broken off: budgets are judged by what was seen until then, and it is no PASS")
            )
        return found


def page(story: Story) -> str:
    """The HTML document."""
    verdict = words("通过", "PASS") if story.held else words("未通过", "FAIL")
    if story.cut_short:
        verdict = words("中断", "CUT SHORT")
    warn = "".join(f'<p class="verdict warn">{words(*said)}</p>' for said in story.warnings())
    body = [
        f"<label for=en>{words('English', '中文')}</label>",
        f"<h1>{words('压测报告', 'Load test')}: {escape(story.shape)}</h1>",
        f'<p class="note">{" · ".join((story.says, escape(story.began), story.where, escape(story.machine)))}</p>',
        f'<p class="verdict {"pass" if story.held else "fail"}">{verdict}</p>{warn}',
        _section(words("预算", "Budgets"), _budgets(story.lines)),
        *_pictures(story),
        _section(words("数字", "Figures"), _figures(story.figures)),
        _section(words("命令与结果", "What was asked, and what came of it"), _outcomes(Totals(story.ticks))),
        *(f'<p class="note">{note}</p>' for note in story.notes),
    ]
    return (
        '<!doctype html><html lang="zh-CN"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(story.shape)} · Nearcast</title><style>{STYLE}</style></head><body>"
        f'<input type="checkbox" id="en" aria-label="English"><main>{"".join(body)}</main></body></html>\n'
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _name(figure: str) -> str:
    return words(NAMES.get(figure, figure), FIGURES.get(figure, figure))


def _number(value: float | None, figure: str) -> str:
    if value is None:
        return "–"
    said = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
    return f"{said} ms" if figure.endswith("_ms") else said


def _budgets(lines: Sequence[Line]) -> str:
    rows = "".join(
        f'<tr><td><b class="{"pass" if line.held else "fail"}">{"PASS" if line.held else "FAIL"}</b></td>'
        f'<td>{_name(line.budget.figure)}</td><td class="n">{escape(line.budget.says())}</td>'
        f'<td class="n">{_number(line.seen, line.budget.figure)}</td></tr>'
        for line in lines
    )
    head = f"<tr><th></th><th></th><th>{words('预算', 'budget')}</th><th>{words('实测', 'seen')}</th></tr>"
    return f"<table>{head}{rows}</table>"


def _figures(figures: dict[str, float | None]) -> str:
    rows = (
        f'<tr><td>{_name(name)}</td><td class="n">{_number(value, name)}</td></tr>' for name, value in figures.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _outcomes(totals: Totals) -> str:
    rows = []
    for kind, outcomes in totals.outcomes.items():
        told = ", ".join(f"{escape(name)} {many:,}" for name, many in outcomes.most_common())
        rows.append(f"<tr><td>{escape(kind)}</td><td>{told}</td></tr>")
    for title, counts in (
        (words("失败", "failures"), totals.failures), (words("断开", "sockets ended"), totals.closes)
    ):  # fmt: skip
        told = ", ".join(f"{escape(name)} {many:,}" for name, many in counts.most_common()) or "–"
        rows.append(f"<tr><td>{title}</td><td>{told}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _pictures(story: Story) -> list[str]:
    ticks = [tick for tick in story.ticks if tick.phase in ("play", "quiet")]
    began = ticks[0].at - ticks[0].t if ticks else 0.0
    marks = [tick.t for tick in ticks if tick.struck or tick.claimable]

    def over(name: str, value: Callable[[Tick], float | None], colour: int | None = None) -> Series:
        return Series(name, [(tick.t, value(tick)) for tick in ticks], colour)

    def late(colour: int, kind: str, part: float) -> Series:
        def at(tick: Tick) -> float | None:
            delays: Histogram = tick.delays.get(kind, {})
            return percentile(delays, part) if delays else None

        line = over(f"{NAMES[kind]} p{part * 100:.0f}", at, colour)
        # Announcements are seconds apart: without a gap for each they are a line.
        known = [point for point in line.points if point[1] is not None]
        return replace(line, points=known, faint=part < 0.9)

    def process(values: Callable[[Sample], dict[str, float]], times: float = 1.0) -> list[Series]:
        names = sorted({name for sample in story.samples for name in values(sample)})
        return [
            Series(escape(name), [
                (s.at - began, values(s)[name] * times if name in values(s) else None) for s in story.samples
            ])
            for name in names
        ]  # fmt: skip

    delays = [
        late(place, kind, part) for place, kind in enumerate(("certain", "latest", "lossy")) for part in (0.99, 0.5)
    ]
    pictures = [
        (words("延迟 (毫秒)", "Delay (ms)"), delays),
        (words("在线人数", "Viewers"), [
            over(words("在线", "in"), lambda tick: tick.viewers),
            over(words("目标", "wanted"), lambda tick: tick.wanted),
        ]),
        (words("每秒送达", "Deliveries a second"), [over(words("事件", "events"), lambda tick: tick.deliveries),
                                               over(words("帧", "frames"), lambda tick: tick.frames)]),
        (words("每秒进房与恢复", "Joins and resumes a second"), [
            over(words("进房", "joins"), lambda tick: sum(tick.answers.get("join", {}).values())),
            over(words("恢复", "resumes"), lambda tick: tick.recovered + tick.unrecovered),
        ]),
        (words("丢弃 (累计)", "Left out (in all)"), [
            Series(words("评论与慢观众", "comments, slow viewers"), [(s.at - began, s.shed) for s in story.samples])
        ]),
        (words("各进程 CPU (% 单核)", "CPU of each process (% of a core)"),
         [*process(lambda s: s.cpu, 100), over(words("压测机", "generator"), lambda tick: tick.cpu * 100)]),
        (words("各进程内存 (MiB)", "Memory of each process (MiB)"), process(lambda s: s.memory)),
    ]  # fmt: skip
    return [_section(title, chart(series, marks)) for title, series in pictures]
