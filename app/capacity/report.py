"""What the model and the storms say, in words and for machines. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from app.capacity import model, picture, storm
from app.capacity.costs import Check, Costs

SEED = 1


def storms(taken: model.Needs, viewers: int) -> list[tuple[str, storm.Outcome]]:
    """What may happen to the evening's gateways, each named."""
    count, pace = taken.gateways, max(1.0, taken.gateway_joins_per_s)
    cases: list[tuple[str, storm.Storm]] = []
    if count > 1:
        cases += [
            ("a gateway drains", storm.Storm(viewers, count, 1, pace, "drained", seed=SEED)),
            ("a gateway dies", storm.Storm(viewers, count, 1, pace, seed=SEED)),
        ]
    if count >= 3:
        lost = count // 3
        cases += [
            ("a zone of three dies", storm.Storm(viewers, count, lost, pace, seed=SEED)),
            ("… without jitter", storm.Storm(viewers, count, lost, pace, jitter=0.0, seed=SEED)),
        ]
    cases += [
        ("all sockets break", storm.Storm(viewers, count, count, pace, seed=SEED)),
        ("… without jitter", storm.Storm(viewers, count, count, pace, jitter=0.0, seed=SEED)),
    ]
    return [(name, storm.simulate(case)) for name, case in cases]


def _seconds(value: float | None) -> str:
    return f"{value:.1f} s" if value is not None else f"not in {storm.LONGEST_STORM_SECONDS / 60:.0f} min"


# ---- words ---------------------------------------------------------------------------------------------------------


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  " + "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]  # fmt: skip


def _bits(value: float) -> str:
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} bit/s"


def _bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,.0f} B"


def _verdict(parts: Sequence[model.Part], evening: model.Evening) -> list[str]:
    first = parts[0]
    if first.full_at is None:
        return [f"Nothing gives out up to {model.MOST_TIMES:,.0f} times as many viewers."]
    holds = "This evening holds." if first.full_at >= evening.viewers else "This evening does NOT hold."
    give = "give" if first.name.endswith(("drops", "gateways")) else "gives"
    return [
        f"{holds} As viewers grow, {first.name} {give} out first, at some {first.full_at:,} viewers:",
        f"  {first.advice}.",
    ]


def words(
    evening: model.Evening,
    taken: model.Needs,
    parts: Sequence[model.Part],
    outcomes: Sequence[tuple[str, storm.Outcome]],
    found: Sequence[Check],
    machine: str,
    *,
    plain: bool = False,
) -> str:
    """Everything, as an operator reads it; ``plain`` for a terminal that has no block characters."""
    lines = [
        f"{evening.viewers:,} viewers in {evening.rooms:,} room{'s'[: evening.rooms - 1]}, {evening.comments:g}"
        f" comments/s, {evening.drops} claim and push drops at once; costs of {machine}.",
        "",
        *_verdict(parts, evening),
        "",
        *_table(
            [
                ("part", "planned use", "full at"),
                *((part.name, f"{part.used:,.0%}", f"{part.full_at:,}" if part.full_at else "never")
                  for part in parts),
            ]
        ),
        "",
        *_table(
            [
                ("what is needed", ""),
                ("gateways, a core each", f"{taken.gateways:,}"),
                ("  viewers on each", f"{taken.gateway_viewers:,.0f}"),
                ("  CPU of each", f"{taken.gateway_cpu:.0%}"),
                ("  memory of each", f"{taken.gateway_mib:,.0f} MiB"),
                ("  one frame to all its viewers", f"{taken.round_seconds * 1000:,.0f} ms"),
                ("to each viewer", f"{_bits(taken.viewer_bits)} ({_bits(taken.viewer_bits_deflated)} compressed)"),
                ("  frames", f"{taken.frames_per_viewer:.1f}/s"),
                ("egress in all", f"{_bits(taken.egress_bits)} ({_bits(taken.egress_bits_deflated)} compressed)"),
                ("Redis", f"{taken.redis_cpu:.0%} of a core"),
                ("  commands", f"{taken.redis_commands:,.0f}/s"),
                ("  pub/sub messages, in and out", f"{taken.redis_messages:,.0f}/s, {_bits(taken.redis_bits)}"),
                ("  memory", f"{taken.redis_mib:,.0f} MiB"),
                ("PostgreSQL, while nothing is dropped", f"{taken.postgres_cpu:.2f} cores"),
                ("  commits, rows", f"{taken.postgres_commits:,.0f}/s, {taken.postgres_rows:,.0f}/s"),
                ("  WAL", f"{_bytes(taken.postgres_wal)}/s"),
                (f"{evening.drops} claim and {evening.drops} push drops", f"{taken.claims:,.0f} coupons each way"),
                ("  claims answered within", f"{taken.claim_seconds:,.0f} s"),
                ("  pushed coupons given within", f"{taken.push_seconds:,.0f} s"),
                ("  commits, rows, WAL in all", f"{taken.drop_commits:,.0f}, {taken.drop_rows:,.0f},"
                 f" {_bytes(taken.drop_wal_bytes)}"),
            ]
        ),
        "",
        f"Everybody's return, if a gateway has room for {taken.gateway_joins_per_s:,.0f} joins/s:",
        *_table(
            [
                ("", "viewers", "half back", "99 % back", "all back", "peak tries/s", "joins/s", "gave up", "in line"),
                *(
                    (
                        name, f"{outcome.storm.affected:,}", _seconds(outcome.back(0.5)), _seconds(outcome.back(0.99)),
                        _seconds(outcome.back(1.0)), f"{outcome.peak_tries:,}", f"{outcome.peak_joins:,}",
                        f"{outcome.gave_up:,}", f"{outcome.longest_line:.1f} s",
                    )
                    for name, outcome in outcomes
                ),
            ]
        ),
        "  Tries and joins: at one gateway, in its fullest second.",
        "",
        "Who is back, second by second; a full block is everybody:",
        *picture.bars(outcomes, plain=plain),
        "",
        "How wrong the model is, at sizes it was not fitted to:",
        *_table(
            [
                ("", "viewers", "predicted", "measured", "error"),
                *(
                    (check.what, f"{check.viewers:,}", f"{check.predicted:,.3g} {check.unit}".rstrip(),
                     f"{check.measured:,.3g} {check.unit}".rstrip(), f"{check.error:+.0%}")
                    for check in sorted(found, key=lambda check: (check.what, check.viewers))
                ),
            ]
        ),
    ]  # fmt: skip
    return "\n".join(lines)


def document(
    evening: model.Evening,
    costs: Costs,
    taken: model.Needs,
    parts: Sequence[model.Part],
    outcomes: Sequence[tuple[str, storm.Outcome]],
    found: Sequence[Check],
) -> dict[str, Any]:
    """The same for machines; CPU as parts of a core, bits and bytes a second, times in seconds."""
    return {
        "evening": asdict(evening),
        "needs": asdict(taken),
        "parts": [asdict(part) for part in parts],
        "storms": [
            {
                "name": name, "affected": outcome.storm.affected, "jitter": outcome.storm.jitter,
                "half_back_s": outcome.back(0.5), "all_back_s": outcome.back(1.0), "still_out": outcome.still_out,
                "peak_tries": outcome.peak_tries, "peak_joins": outcome.peak_joins, "gave_up": outcome.gave_up,
                "longest_line_s": outcome.longest_line,
            }
            for name, outcome in outcomes
        ],
        "costs": asdict(costs),
        "checks": [asdict(check) | {"error": check.error} for check in found],
    }  # fmt: skip
