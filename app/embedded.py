"""A private PostgreSQL with PostGIS and a private Redis, run from the system's own binaries.

They live under the state folder, listen on free loopback ports, and stop with the process that started them. On Linux
they stop even when that process is killed with -9. Other commands of the same checkout find them by ``servers.json``.
"""

import asyncio
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.problems import Problem
from app.processes import bound, free_port
from kernel.settings import Settings

START_SECONDS = 60
STOP_SECONDS = 30
DATABASE = "nearcast"
POSTGRES_PACKAGE = "postgresql-15-postgis-3"


class MissingServer(Problem):
    """A server's binary is not on this machine; the message says the one command that brings it."""


class ServerFailed(Problem):
    """A server did not start; the message ends with what its log says."""


class AlreadyRunning(Problem):
    """Another process of this checkout runs the embedded servers."""


class Found(msgspec.Struct):
    """What ``servers.json`` says about running servers."""

    pid: int
    database_url: str | None
    redis_url: str | None


def _install_hint(package: str) -> str:
    if sys.platform == "darwin":
        return f"brew install {'postgis' if 'postgis' in package else 'redis'}"
    return f"apt-get install -y {package}"


def _binary(name: str, package: str) -> str:
    """The newest ``name`` on this machine; PostgreSQL's are not on Debian's PATH."""
    homes = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql*/bin")]
    for home in sorted(
        homes, key=lambda p: [int(d) for d in "".join(c if c.isdigit() else " " for c in str(p)).split()]
    ):
        if (home / name).exists():
            found = str(home / name)
            break
    else:
        found = shutil.which(name) or ""
    if not found:
        raise MissingServer(
            f"{name} is not installed: run `{_install_hint(package)}`, or start `deploy/compose.yaml` and set "
            "NEARCAST_DATABASE_URL and NEARCAST_REDIS_URL."
        )
    return found


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom servers run as: PostgreSQL refuses root. None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise MissingServer("there is no unprivileged user `postgres` or `nobody` to run PostgreSQL as")


def home_of(state_dir: Path) -> Path:
    """Where the servers keep their data: the state folder, or a system folder if their user cannot reach that."""
    state_dir = state_dir.resolve()
    user = _unprivileged()
    reachable = user is None or all(parent.stat().st_mode & 0o001 for parent in state_dir.parents)
    if reachable:
        return state_dir
    return Path("/var/lib/nearcast") / hashlib.sha256(str(state_dir).encode()).hexdigest()[:12]


@contextmanager
def _owned(state_dir: Path) -> Iterator[None]:
    """Hold the checkout's lock, so that at most one process starts or stops its servers."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"another process already runs the servers under {state_dir}") from None
        yield


def secret(path: Path) -> str:
    """The password kept at ``path``, made on first use."""
    if not path.exists():
        path.touch(0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


@asynccontextmanager
async def server_process(command: list[str], log: Path, stop: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server in its own session (a terminal's Ctrl-C is ours to handle) and stop it on leaving."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *bound(command, stop, _unprivileged()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.Signals[f"SIG{stop}"])
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()


def given(path: Path) -> Path:
    """``path``, now owned by the user that servers run as."""
    if (user := _unprivileged()) is not None:
        os.chown(path, user.pw_uid, user.pw_gid)
    return path


def server_folder(path: Path) -> Path:
    """``path``, made, and the servers' own."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return given(path)


async def _stop_orphan(pid_file: Path, stop: signal.Signals) -> None:
    """Stop a server that outlived its owner (possible where death signals are not), so that its data can be opened."""
    try:
        pid = int(pid_file.read_text().split()[0])
        # A stale file may name a stranger: only a process that works in this very folder is ours.
        if Path(f"/proc/{pid}/cwd").resolve() != pid_file.parent.resolve():
            return
        os.kill(pid, stop)
        for _ in range(300):
            os.kill(pid, 0)
            await asyncio.sleep(0.1)
    except (OSError, ValueError, IndexError):
        return  # no file, or nobody there: what we wanted


async def until_ready(
    what: str, process: asyncio.subprocess.Process, log: Path, probe: Callable[[], Awaitable[None]]
) -> None:
    """Return once ``probe`` succeeds. Raises ServerFailed with the end of the log."""
    for _ in range(START_SECONDS * 20):
        if process.returncode is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise ServerFailed(f"{what} did not start:\n{tail}")
        try:
            return await probe()
        except (OSError, asyncpg.PostgresError, RedisError):
            await asyncio.sleep(0.05)
    raise ServerFailed(f"{what} was not ready after {START_SECONDS} s; see {log}")


async def _initdb(home: Path, data: Path, password: str) -> None:
    """Make an empty cluster at ``data``, whole or not at all: a killed initdb leaves only the unfinished folder."""
    unfinished = home / "postgres.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    server_folder(unfinished)
    handover = server_folder(home / "handover")
    (handover / "password").write_text(password)
    given(handover / "password")
    command = [_binary("initdb", POSTGRES_PACKAGE), "-D", str(unfinished), "-U", "nearcast", "-E", "UTF8"]
    command += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={handover / 'password'}"]
    process = await asyncio.create_subprocess_exec(
        *bound(command, "KILL", _unprivileged()),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
    )
    _, errors = await process.communicate()
    shutil.rmtree(handover)
    if process.returncode != 0:
        raise ServerFailed(f"initdb failed:\n{errors.decode(errors='replace')}")
    unfinished.rename(data)


@asynccontextmanager
async def postgres(home: Path, logs: Path) -> AsyncIterator[str]:
    """Run PostgreSQL with its data under ``home``; yields the URL of its database, which exists and has PostGIS."""
    server = _binary("postgres", POSTGRES_PACKAGE)
    data = home / "postgres"
    password = secret(home / "postgres.password")
    log = logs / "postgres.log"
    log.touch()
    if not data.exists():
        await _initdb(home, data, password)
    await _stop_orphan(data / "postmaster.pid", signal.SIGINT)
    port = free_port()
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        "shared_buffers": "256MB",
        "random_page_cost": "1.1",
        "effective_io_concurrency": 100,
        "max_wal_size": "2GB",
        "min_wal_size": "1GB",  # kept from one evening to the next: while a file of the log is made, everybody waits
        "timezone": "UTC",
    }
    command = [server, "-D", str(data), *(part for key, value in options.items() for part in ("-c", f"{key}={value}"))]
    async with server_process(command, log, "INT") as process:
        address = f"postgresql://nearcast:{password}@127.0.0.1:{port}"

        async def probe() -> None:
            connection = await asyncpg.connect(f"{address}/postgres")
            try:
                if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                    await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close()

        await until_ready("PostgreSQL", process, log, probe)
        yield f"{address}/{DATABASE}"


@asynccontextmanager
async def redis(home: Path, logs: Path) -> AsyncIterator[str]:
    """Run Redis with an append-only file under ``home``; yields its URL."""
    server = _binary("redis-server", "redis-server")
    data = server_folder(home / "redis")
    password = secret(home / "redis.password")
    log = logs / "redis.log"
    log.touch()
    await _stop_orphan(data / "redis.pid", signal.SIGTERM)
    port = free_port()
    config = data / "redis.conf"  # a file, because arguments show in the process list
    config.touch(0o600)
    config.write_text(
        f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {data}\npidfile {data}/redis.pid\n"
        'appendonly yes\nappendfsync everysec\nsave ""\nmaxmemory-policy noeviction\nmaxclients 10000\n'
    )
    given(config)
    async with server_process([server, str(config)], log, "TERM") as process:
        url = f"redis://:{password}@127.0.0.1:{port}/0"

        async def probe() -> None:
            async with Redis.from_url(url) as client:
                await client.ping()

        await until_ready("Redis", process, log, probe)
        yield url


def _find(state_dir: Path) -> Found | None:
    try:
        found = msgspec.json.decode((state_dir / "servers.json").read_bytes(), type=Found)
        os.kill(found.pid, 0)
    except (OSError, msgspec.MsgspecError):
        return None
    return found


@asynccontextmanager
async def servers(settings: Settings, *, share: bool = True) -> AsyncIterator[Settings]:
    """``settings`` with the addresses of both servers filled in.

    What the environment names is used as it is. Otherwise the running servers of this checkout are used (``share``),
    or they are started and stopped with this context. Raises MissingServer, or AlreadyRunning where not ``share``.
    """
    if settings.database_url and settings.redis_url:
        yield settings
        return
    state_dir = settings.state_dir.resolve()
    async with AsyncExitStack() as stack:
        try:
            stack.enter_context(_owned(state_dir))
        except AlreadyRunning:
            found = _find(state_dir)
            if not share or found is None:
                raise
            yield settings.model_copy(
                update={
                    "database_url": settings.database_url or found.database_url,
                    "redis_url": settings.redis_url or found.redis_url,
                }
            )
            return
        home = home_of(state_dir)
        home.mkdir(parents=True, exist_ok=True)
        if home != state_dir and not (state_dir / "data").is_symlink():
            (state_dir / "data").symlink_to(home)  # so that one finds it, and `make clean` removes it
        logs = state_dir / "log"
        logs.mkdir(exist_ok=True)
        database_url = settings.database_url or await stack.enter_async_context(postgres(home, logs))
        redis_url = settings.redis_url or await stack.enter_async_context(redis(home, logs))
        record = state_dir / "servers.json"
        record.touch(0o600)
        record.write_bytes(msgspec.json.encode(Found(os.getpid(), database_url, redis_url)))
        stack.callback(record.unlink, missing_ok=True)
        yield settings.model_copy(update={"database_url": database_url, "redis_url": redis_url})
