"""CPU and memory of each process of a stack on this machine, and what gateways tell at ``/metrics``."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from loadtest.bench.machine import cpu_seconds, resident_kib

MARK = "app.cli"
ALONE = ("api", "gateway", "worker")


@dataclass
class Sample:
    """One look: since the last one, which share of a core each process used, and its memory in MiB."""

    at: float
    """Seconds since 1970."""
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    shed: float | None = None
    """Events left out so far, over all gateways; None where nobody tells."""
    viewers: float | None = None


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name in parentheses may hold spaces; the parent is the second field behind it.
                found[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # gone meanwhile
    return found


def descendants(root: int) -> list[int]:
    """All processes under ``root``, parents before children."""
    parents = _parents()
    found, seen = [root], {root}
    for known in found:
        more = sorted(pid for pid, parent in parents.items() if parent == known and pid not in seen)
        seen.update(more)
        found += more
    return found[1:]


def role(arguments: list[str]) -> str | None:
    """What a process of a stack is, by its command line; None for what is of no interest."""
    if MARK in arguments:
        verb = arguments[arguments.index(MARK) + 1 : arguments.index(MARK) + 2]
        return verb[0] if verb and verb[0] in ALONE else None
    words = " ".join(arguments)
    if "redis-server" in words:
        return "redis"
    return "postgres" if "postgres" in words else None


class Stack:
    """The processes under ``root`` (``nearcast up``)."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._names: dict[int, str] = {}
        self._used: dict[int, float] = {}
        self._looked = time.monotonic()

    def gateways(self) -> list[int]:
        """Their process ids."""
        return [pid for pid in descendants(self._root) if self._name(pid).startswith("gateway")]

    def _name(self, pid: int) -> str:
        if pid not in self._names:
            try:
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                return ""
            name = role([part for argument in arguments for part in argument.split(" ")]) or ""
            if name == "gateway":
                port = _environment(pid).get("NEARCAST_GATEWAY_PORT", "")
                name = f"gateway {port}"
            self._names[pid] = name
        return self._names[pid]

    def look(self) -> Sample:
        """How it stands now."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        sample = Sample(time.time())
        used: dict[int, float] = {}
        for pid in descendants(self._root):
            name = self._name(pid)
            if not name:
                continue
            try:
                used[pid] = cpu_seconds(pid)
                memory = resident_kib(pid) / 1024 if name != "postgres" else _private_mib(pid)
            except OSError:
                continue
            share = max(0.0, used[pid] - self._used.get(pid, used[pid])) / max(1e-3, passed)
            sample.cpu[name] = sample.cpu.get(name, 0.0) + share
            sample.memory[name] = sample.memory.get(name, 0.0) + memory
        self._used = used
        return sample


def _private_mib(pid: int) -> float:
    """What of a PostgreSQL process is counted once: its share of what it shares with the others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) / 1024
    return 0.0


def _environment(pid: int) -> dict[str, str]:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


class Metrics:
    """What the gateways of a deployment tell at ``/metrics``, where they can be asked."""

    def __init__(self, sockets: list[str]) -> None:
        self._urls = [f"http{url[2:].rstrip('/')}/metrics" for url in sockets]
        self._client = httpx.Client(timeout=2)
        self._cpu: dict[str, tuple[float, float]] = {}
        self.offered = False

    def look(self, sample: Sample, *, processes: bool) -> None:
        """Add to ``sample`` what is told; CPU and memory too with ``processes``."""
        shed = viewers = 0.0
        heard = 0
        for number, url in enumerate(self._urls, 1):
            figures = self._ask(url)
            if not figures:
                continue
            heard += 1
            shed += sum(v for n, v in figures.items() if "shed_total{" in n and '"join"' not in n)
            viewers += figures.get("nearcast_gateway_viewers", 0.0)
            if processes:
                self._process(sample, f"gateway {number}", figures)
        if heard:
            self.offered = True
            sample.shed, sample.viewers = shed, viewers

    def _ask(self, url: str) -> dict[str, float]:
        try:
            answer = self._client.get(url)
        except httpx.HTTPError:
            return {}
        if answer.status_code != 200:
            return {}
        found = {}
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if name and not line.startswith("#"):
                try:
                    found[name] = float(value)
                except ValueError:
                    continue
        return found

    def _process(self, sample: Sample, name: str, figures: dict[str, float]) -> None:
        memory = figures.get("nearcast_gateway_resident_bytes", figures.get("process_resident_memory_bytes"))
        if memory is not None:
            sample.memory[name] = memory / 2**20
        used = figures.get("process_cpu_seconds_total")
        if used is not None:
            before, at = self._cpu.get(name, (used, sample.at))
            sample.cpu[name] = max(0.0, used - before) / max(1e-3, sample.at - at)
            self._cpu[name] = (used, sample.at)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()
