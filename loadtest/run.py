"""``make loadtest``: start a stack (or take a deployment by its URL), play a shape, write a report, give a verdict."""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from loadtest import budgets, config, figures, report
from loadtest.bench.machine import ROOT, CannotMeasure, describe, on_core, process, python
from loadtest.charts import words
from loadtest.config import BadConfig, Config
from loadtest.shapes import SHAPES, Shape
from loadtest.stage import Deployment, PrivateStack, cores_for, read_tokens
from loadtest.swarm.plan import Plan, RoomPlan, Tick, encoder, ticks
from loadtest.watch import Metrics, Sample, Stack

REPORTS = ROOT / ".nearcast" / "load"
PRIVATE = words(
    "独立环境：API、两个网关、worker、PostgreSQL、Redis",
    "a private stack: API, two gateways, worker, PostgreSQL, Redis",
)
LOCUST_GRACE = 90.0
"""Beyond its seconds a test may take so long to begin, fall quiet and end, before it is called off."""


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.run", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="peak")
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--url", default="", help="an API that runs already; left out: a private stack is started")
    parser.add_argument("--brand", default="demo", help="whom to sign in with, at a deployment")
    parser.add_argument("--room", default="", help="an existing room of the deployment; left out: new ones are made")
    parser.add_argument("--tokens", type=Path, help="viewers' tokens, one a line, where development login is off")
    parser.add_argument("--guide-token", default="", help="token of the existing room's guide")
    parser.add_argument("--config", type=Path, help="changes to loadtest/evening.toml")
    parser.add_argument("--budgets", type=Path, help="in place of loadtest/budgets.toml")
    parser.add_argument("--out", type=Path, help="folder of the report")
    chosen = parser.parse_args(arguments)
    if chosen.viewers < 1 or not 5 <= chosen.seconds <= 86_400:
        parser.error("--viewers must be at least 1, --seconds from 5 to 86400")
    if chosen.tokens and not chosen.room:
        parser.error("--tokens needs --room: without development login no rooms can be made")
    return chosen


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclasses.dataclass
class Scene:
    """Everything that is needed to play."""

    rooms: list[RoomPlan]
    tokens: list[str]
    sockets: list[str]
    url: str
    brand: str
    alone: bool = True
    stack: Stack | None = None
    made: bool = False
    """Whether the rooms are of our making, in a deployment that lives on."""


def private(chosen: argparse.Namespace, shape: Shape, settings: Config, exits: ExitStack) -> Scene:
    """A stack of its own, in a folder that is forgotten with it."""
    # Where PostgreSQL's own user can reach it, whoever we are.
    folder = Path("/tmp") / f"nearcast-load-{os.getpid()}"  # noqa: S108
    exits.callback(shutil.rmtree, folder, ignore_errors=True)
    stage = exits.enter_context(PrivateStack(folder, shape.rooms(chosen.viewers), settings.viewer.located))
    api = Deployment(stage.url, "bench")
    exits.callback(api.close)
    sockets = api.sockets(stage.rooms[0].id, stage.guide_token, at_least=2)
    return Scene(stage.rooms, stage.viewer_tokens, sockets, stage.url, "bench", stack=Stack(stage.up.pid))


def deployed(chosen: argparse.Namespace, shape: Shape, settings: Config, exits: ExitStack) -> Scene:
    """A deployment that runs already: people sign in, rooms are made, unless they are given."""
    api = Deployment(chosen.url, chosen.brand)
    exits.callback(api.close)
    viewers = chosen.viewers
    tokens = read_tokens(chosen.tokens, viewers) if chosen.tokens else api.members(viewers, settings.viewer.located)
    if chosen.room:
        rooms = [api.existing(chosen.room, viewers, tokens[0], chosen.guide_token)]
    else:
        rooms = api.rooms(shape.rooms(viewers))
    sockets = api.sockets(rooms[0].id, tokens[0])
    return Scene(rooms, tokens, sockets, api.url, chosen.brand, alone=not chosen.room, made=not chosen.room)


def plan_of(scene: Scene, shape: Shape, seconds: float, settings: Config) -> Plan:
    """What the swarm is to do there."""
    return Plan(
        shape=shape.name,
        seconds=seconds,
        sockets=scene.sockets,
        rooms=scene.rooms,
        tokens=scene.tokens,
        pace=dataclasses.asdict(settings.swarm),
        located=1.0 if shape.everybody_claims else settings.viewer.located,
        claim=settings.viewer.claim,
        claim_within=settings.viewer.claim_within,
        stock=max(settings.guide.stock, len(scene.tokens) // 2 if shape.everybody_claims else 0),
        drop_seconds=settings.guide.drop_seconds,
        alone=scene.alone,
        cuts=scene.stack is None,
        ends=scene.made,
    )


@dataclasses.dataclass
class Heard:
    """What was told while it was played, second by second."""

    ticks: list[Tick] = dataclasses.field(default_factory=list)
    samples: list[Sample] = dataclasses.field(default_factory=list)
    cut_short: bool = False

    @property
    def played(self) -> list[Sample]:
        """The samples of the time in which people came and talked."""
        playing = [tick.at for tick in self.ticks if tick.phase == "play"]
        return [sample for sample in self.samples if playing and playing[0] <= sample.at <= playing[-1]]


def play(plan: Plan, scene: Scene, out: Path, settings_file: Path | None) -> Heard:
    """Let Locust play it, to its end or until Ctrl-C. Raises CannotMeasure."""
    (out / "plan.json").write_bytes(encoder.encode(plan))
    timeline = out / "timeline.jsonl"
    command = python(
        "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--only-summary", "-H", scene.url,
        "--shape", plan.shape, "--seconds", str(plan.seconds), "--users", "0", "--swarms", "1",
        "--plan", str(out / "plan.json"), "--timeline", str(timeline), "--brand", scene.brand,
        "--csv", str(out / "locust"), "--html", str(out / "locust.html"), "SwarmUser", "ClerkUser",
        *(("--evening", str(settings_file)) if settings_file else ()),
    )  # fmt: skip
    heard = Heard()
    try:
        with (
            on_core(cores_for()[1]),  # looking at the servers must not cost them
            watching(scene, out, heard.samples),
            process(command, cores_for()[1], log=out / "locust.log", environment=dict(os.environ)) as child,
        ):
            follow(timeline, child, plan, scene, heard.ticks)
            child.wait(timeout=LOCUST_GRACE)
    except KeyboardInterrupt:
        if not any(tick.phase == "play" for tick in heard.ticks):
            raise  # nobody came in yet
        say("  broken off; what was seen until now is written down")
        heard.cut_short = True
        return heard
    finally:
        (out / "plan.json").unlink(missing_ok=True)  # it holds everybody's tokens
    if not any(tick.phase == "end" for tick in heard.ticks):
        tail = (out / "locust.log").read_text(errors="replace").splitlines()[-12:]
        raise CannotMeasure("\n".join(["the generator ended before the test did; its log ends:", *tail]))
    return heard


def follow(timeline: Path, child: "subprocess.Popen[bytes]", plan: Plan, scene: Scene, heard: list[Tick]) -> None:
    """Add to ``heard`` what the swarm tells as it comes, say how it stands, strike when it is time; until its end."""
    ends = time.monotonic() + plan.seconds + LOCUST_GRACE + 240
    place, said = 0, -5.0
    while time.monotonic() < ends:
        over = child.poll() is not None
        if timeline.exists():
            with timeline.open("rb") as lines:
                lines.seek(place)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    place += len(line)
                    heard.append(ticks.decode(line))
                    tick = heard[-1]
                    if tick.phase == "play" and tick.t - said >= 5:
                        said = tick.t
                        say(f"  {tick.t:5.0f} s  {tick.viewers:6,} viewers  {tick.deliveries:8,} deliveries/s"
                            f"  generator {tick.cpu:4.0%}")  # fmt: skip
                    if tick.struck and scene.stack is not None:
                        strike(scene.stack)
        if over or (heard and heard[-1].phase == "end"):
            break
        time.sleep(0.1)


def strike(stack: Stack) -> None:
    """Kill a gateway as a broken machine does; ``nearcast up`` starts it again."""
    gateways = stack.gateways()
    if gateways:
        say(f"  a gateway dies (kill -9 {gateways[0]})")
        os.kill(gateways[0], signal.SIGKILL)


@contextmanager
def watching(scene: Scene, out: Path, samples: list[Sample]) -> Iterator[None]:
    """Look at the processes once a second, in a thread, and add what is seen to ``samples``."""
    stopping = Event()
    metrics = Metrics(scene.sockets)

    def look() -> None:
        while not stopping.wait(1.0):
            sample = scene.stack.look() if scene.stack is not None else Sample(time.time())
            metrics.look(sample, processes=scene.stack is None)
            samples.append(sample)

    thread = Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        metrics.close()
        with (out / "processes.jsonl").open("w") as lines:
            lines.writelines(json.dumps(dataclasses.asdict(sample)) + "\n" for sample in samples)


def conclude(chosen: argparse.Namespace, shape: Shape, scene: Scene, heard: Heard, out: Path) -> report.Story:
    """Judge, and write ``report.html`` and ``result.json``."""
    first = next((tick.at for tick in heard.ticks if tick.phase == "play"), 0.0)
    found = figures.of(heard.ticks, [sum(sample.memory.values()) for sample in heard.played])
    story = report.Story(
        shape=shape.name,
        says=words(
            f"{shape.says_zh}；观众 {chosen.viewers:,}，{chosen.seconds:g} 秒",
            f"{shape.says}; {chosen.viewers:,} viewers, {chosen.seconds:g} s",
        ),
        where=words(scene.url, scene.url) if chosen.url else PRIVATE,
        machine=describe(),
        began=datetime.fromtimestamp(first).astimezone().strftime("%Y-%m-%d %H:%M"),
        ticks=heard.ticks,
        samples=heard.samples,
        lines=budgets.verdict(budgets.load(shape.name, chosen.budgets), found),
        figures=found,
        generator=figures.limited_by_generator(heard.ticks),
        servers=figures.full_servers(heard.played, len(cores_for()[0]) if scene.stack is not None else 0),
        cut_short=heard.cut_short,
        notes=notes(scene, heard.samples),
    )
    (out / "report.html").write_text(report.page(story))
    result: dict[str, Any] = {"shape": shape.name, "viewers": chosen.viewers, "seconds": chosen.seconds,
                              "held": story.held, "cut_short": story.cut_short, "figures": found,
                              "warnings": [said.en for said in story.warnings()]}  # fmt: skip
    (out / "result.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    return story


def notes(scene: Scene, samples: list[Sample]) -> list[str]:
    """What a reader should know about how it was measured, in both languages."""
    servers, own = cores_for()
    told = [
        words(
            f"压测机用核 {min(own)}；延迟从发送者盖时间戳起，到每个观众收到为止，都用它自己的时钟。",
            f"Generator on core {min(own)}; delays are from the sender's stamp to each viewer, both by its own clock.",
        )
    ]
    if scene.stack is not None:
        cores = ", ".join(map(str, sorted(servers)))
        told.append(words(f"服务器进程用本机的核 {cores}。", f"Servers on core {cores} of this machine."))
        if servers == own:
            zh = "本机只有一个核：压测机与服务器共用，数字不只属于服务器。"
            told.append(
                words(zh, "There is one core: generator and servers shared it; no figure is the server's alone.")
            )
    elif not any(sample.cpu or sample.memory for sample in samples):
        zh = "CPU 与内存：进程在别处，从这里看不到网关的 /metrics。"
        told.append(words(zh, "CPU and memory: the processes are elsewhere, and no gateway offers /metrics from here."))
    else:
        zh = "CPU 与内存来自网关的 /metrics；其他进程无从得知。"
        told.append(words(zh, "CPU and memory are as the gateways tell at /metrics; nothing is known of the others."))
    return told


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 if every budget was held, 1 if one was not, 2 if the test could not be made, 130 after Ctrl-C."""
    chosen = options(arguments)
    shape = SHAPES[chosen.shape]
    try:
        settings = config.load(chosen.config)
        budgets.load(shape.name, chosen.budgets)
        out = chosen.out or REPORTS / f"{shape.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as exits:
            say("starting …" if not chosen.url else f"{chosen.url}: letting people sign in …")
            scene = (deployed if chosen.url else private)(chosen, shape, settings, exits)
            say(f"{shape.name}: {len(scene.rooms)} rooms, {chosen.viewers:,} viewers, {chosen.seconds:g} s")
            heard = play(plan_of(scene, shape, chosen.seconds, settings), scene, out, chosen.config)
    except (BadConfig, CannotMeasure) as reason:
        sys.stderr.write(f"{reason}\n")
        return 2
    story = conclude(chosen, shape, scene, heard, out)
    for line in story.lines:
        say(str(line))
    for warning in story.warnings():
        say(f"NOTE  {warning.en}")
    say(f"{'CUT' if story.cut_short else 'PASS' if story.held else 'FAIL'}  {out / 'report.html'}")
    return 130 if story.cut_short else int(not story.held)


if __name__ == "__main__":
    # Ctrl-C and SIGTERM alike leave through the context managers, which stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
