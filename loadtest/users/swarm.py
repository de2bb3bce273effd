"""A swarm under Locust: one user who is thousands of viewers, in a child process that no greenlet slows."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gevent import subprocess as patient
from locust import User, task
from locust.exception import StopUser
from locust.runners import LocalRunner
from locust.stats import RequestStats, StatsEntry

from loadtest.bench.machine import ROOT, bound
from loadtest.config import Config
from loadtest.shapes import SHAPES
from loadtest.stage import Deployment
from loadtest.swarm.plan import Histogram, Plan, Tick, encoder, plans, ticks
from loadtest.users import coupons
from loadtest.users.line import config_of

KINDS = dict.fromkeys(("certain", "missed", "latest", "lossy"), "EVENT")
MOST_ERRORS = 1000
"""Failures of one kind in one second that are told to Locust one by one."""


class SwarmUser(User):
    """Holds ``--viewers`` viewers (its part of them, where there are several swarms) and plays ``--shape`` with them.

    All it sees becomes Locust's: ``EVENT certain``, ``latest``, ``lossy`` (delays from the sender's stamp), ``missed``,
    ``WS join``, ``resume``, ``comment``, ``claim``, …; what must not happen are failures.
    """

    fixed_count = 1

    def on_start(self) -> None:
        """Start the child."""
        options = self.environment.parsed_options
        with tempfile.NamedTemporaryFile("wb", suffix=".json", prefix="nearcast-plan-", delete=False) as file:
            file.write(encoder.encode(self.plan(options, config_of(self))))
        self._file = Path(file.name)
        command = bound([sys.executable, "-m", "loadtest.swarm", str(self._file)])
        self.child = patient.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        self._timeline = Path(options.timeline).open("a") if options.timeline else None  # noqa: SIM115

    def plan(self, options: Any, settings: Config) -> Plan:
        """The plan of the command line, or one for a deployment that lets us sign in."""
        if options.plan:
            return plans.decode(Path(options.plan).read_bytes())
        shape = SHAPES[options.shape or "peak"]
        viewers = max(1, options.viewers // max(1, options.swarms))
        api = Deployment(self.environment.host or self.host or "", options.brand)
        try:
            tokens = api.members(viewers, settings.viewer.located)
            if options.room:
                rooms = [api.existing(options.room, viewers, tokens[0])]
            else:
                rooms = api.rooms(shape.rooms(viewers))
            sockets = api.sockets(rooms[0].id, tokens[0])
        finally:
            api.close()
        return Plan(
            shape.name, options.seconds, sockets, rooms, tokens, dataclasses.asdict(settings.swarm),
            located=settings.viewer.located, claim=settings.viewer.claim,
            claim_within=settings.viewer.claim_within, stock=settings.guide.stock,
            drop_seconds=settings.guide.drop_seconds, alone=not options.room, ends=not options.room,
            seed=os.getpid(),
        )  # fmt: skip

    @task
    def follow(self) -> None:
        """Turn the child's lines into figures, until it has no more."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            tick = ticks.decode(line)
            record(self.environment.stats, tick)
            for code, store in tick.coupons:
                coupons.won(code, store)
            if self._timeline is not None:
                self._timeline.write(line.decode())
                self._timeline.flush()
        if code := self.child.wait():
            self.environment.process_exit_code = code
        options, runner = self.environment.parsed_options, self.environment.runner
        if options.shape and isinstance(runner, LocalRunner):
            (runner.quit if options.headless else runner.stop)()
        raise StopUser("the plan is played")

    def on_stop(self) -> None:
        """End the child with its user."""
        if self.child.poll() is None:
            self.child.terminate()
            self.child.wait()
        if self.child.stdout is not None:
            self.child.stdout.close()
        if self._timeline is not None:
            self._timeline.close()
        self._file.unlink(missing_ok=True)


def record(stats: RequestStats, tick: Tick) -> None:
    """Add what happened in a second to Locust's figures."""
    for kind, histogram in (*tick.delays.items(), *tick.answers.items()):
        if histogram:
            add(stats, KINDS.get(kind, "WS"), kind, histogram)
    for what, many in tick.failures.items():
        kind, name = ("EVENT", "certain") if what.startswith("certain") else ("WS", what.partition(":")[0])
        for _ in range(min(many, MOST_ERRORS)):
            stats.log_error(kind, name, what)


def add(stats: RequestStats, kind: str, name: str, histogram: Histogram) -> None:
    """Add a second's delays to the entry ``kind name`` and to the total: Locust logs singly, these are thousands."""
    entry = StatsEntry(stats, name, kind)
    now = time.time()
    entry.num_requests = sum(histogram.values())
    entry.total_response_time = sum(ms * many for ms, many in histogram.items())
    entry.response_times.update(histogram)
    entry.min_response_time, entry.max_response_time = min(histogram), max(histogram)
    entry.num_reqs_per_sec[int(now)] = entry.num_requests
    entry.last_request_timestamp = now
    stats.get(name, kind).extend(entry)
    stats.total.extend(entry)
