"""What the benches need of the machine: cores, processes, their CPU time and memory."""

import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / ".nearcast" / "bench"
STOP_SECONDS = 30


class CannotMeasure(Exception):
    """The bench cannot do its work here; the message says why."""


@cache
def cores() -> tuple[int, int]:
    """The server's core and everybody else's; the same one where there is only one.

    Found once, before anything is bound to one of them: asked again ``on_core``, there would seem to be only that one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextmanager
def on_core(core: int | Set[int]) -> Iterator[None]:
    """Whatever is started inside runs on ``core``, or these (children inherit it) for all its life."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core} if isinstance(core, int) else core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pid: int, core: int | Set[int]) -> None:
    """Let the process, with its threads and all that it has started, go on on ``core``."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core} if isinstance(core, int) else core)
        for child in (task / "children").read_text().split():
            with suppress(OSError):  # it has ended meanwhile
                move(int(child), core)


def cpu_seconds(pid: int) -> float:
    """CPU time that the process (all its threads) has used, in nanosecond steps."""
    # The kernel's number of "the CPU clock of process pid", as glibc's clock_getcpuclockid makes it.
    return time.clock_gettime((~pid << 3) | 2)


def kernel_ticks(pid: int) -> tuple[int, int]:
    """CPU time of the process inside the kernel, and in all, in clock ticks: fine for a share, too coarse for more."""
    # The name in parentheses may hold spaces; behind it, utime and stime are the 12th and 13th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return system, user + system


def resident_kib(pid: int) -> float:
    """Resident memory of the process in KiB, as the kernel counts page by page."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return float(line.split()[1])
    raise CannotMeasure(f"the kernel does not tell the memory of process {pid}")


def most_sockets() -> int:
    """How many viewers one process can hold here: its descriptors, less a reserve for everything else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    if soft != limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit - 500


def describe() -> str:
    """The machine in a few words."""
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def bound(command: Sequence[str]) -> list[str]:
    """``command``, made to end when we are killed (Linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig=TERM", *command] if setpriv else list(command)


@contextmanager
def process(
    command: Sequence[str],
    core: int | Set[int],
    *,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` on ``core``; on leaving it gets SIGTERM, and SIGKILL if it does not listen.

    Its own session, so that a Ctrl-C reaches it through us, in order; it also ends when we are killed (Linux).
    """
    output: IO[bytes] | int = subprocess.DEVNULL
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
    try:
        with on_core(core):
            child = subprocess.Popen(  # noqa: S603 - our own commands
                bound(command), cwd=ROOT, env=environment, stdin=stdin, stdout=output if stdout is None else stdout,
                stderr=output, start_new_session=True,
            )  # fmt: skip
    finally:
        if not isinstance(output, int):
            output.close()
    try:
        yield child
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]
