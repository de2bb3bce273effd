"""What ``deploy/`` hands to others' machinery says what the code says. No container is built here: what each file
would do is checked as far as it can be without an engine (docs/operations.md says where that ends)."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import doctor
from app.api import LEAVE_SECONDS
from app.cli import cli
from kernel.settings import PREFIX, Settings
from live.desk import DRAIN_SECONDS, LAST_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
NAMES = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
UNITS = sorted((DEPLOY / "systemd").iterdir())
LONGEST_DRAIN = max(DRAIN_SECONDS + LAST_SECONDS, LEAVE_SECONDS + 10)
PORTS = {"api": ["8080", "8081"], "gateway": ["8090", "8091"]}
"""As nginx.conf has them."""


def commands() -> set[str]:
    return {str(one.name or one.callback.__name__) for one in cli.registered_commands if one.callback}


def composed() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in composed().items() if service["image"] == "nearcast"}


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_compose_runs_everything_with_commands_and_settings_that_exist() -> None:
    assert set(ours()) == {"migrate", "api-1", "api-2", "gateway-1", "gateway-2", "worker"}
    assert set(composed()) - set(ours()) == {"postgres", "redis", "nginx", "prometheus", "grafana"}
    for name, service in ours().items():
        assert service["command"][0] in commands(), name
        assert set(service["environment"]) <= NAMES, name
        assert seconds(service["stop_grace_period"]) > LONGEST_DRAIN, name
        waits = {dependency: how["condition"] for dependency, how in service["depends_on"].items()}
        assert set(waits) <= set(composed())
        assert name == "migrate" or waits == {"migrate": "service_completed_successfully"}


def test_compose_asks_each_process_how_it_is_where_it_listens() -> None:
    for name, service in ours().items():
        kind = name.partition("-")[0]
        if kind == "migrate":
            continue
        port = service["environment"][f"{PREFIX}{kind.upper()}_PORT"]
        assert f"http://127.0.0.1:{port}/" in service["healthcheck"]["test"][-1], name
        compile(service["healthcheck"]["test"][-1], name, "exec")
    for name in ("postgres", "redis"):
        assert composed()[name]["healthcheck"]["test"][0] == "CMD"


def test_compose_mounts_files_that_are_there() -> None:
    for name, service in composed().items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            # The two folders of dashboards and rules have tests of their own.
            if source.startswith("./") and source not in ("./prometheus", "./grafana"):
                assert (DEPLOY / source).exists(), (name, source)


def test_compose_gives_nginx_an_address_for_every_process_and_nginx_takes_the_file(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert nginx, "deploy/install.sh test brings nginx"
    command = ["sed", "-f", str(DEPLOY / "compose.sed"), str(DEPLOY / "nginx.conf")]
    config = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    asked = set(re.findall(r"^\s+server (\d[\d.]+:\d+)", config, re.MULTILINE))
    served = {
        f"{service['networks']['nearcast']['ipv4_address']}:{service['environment'][f'{PREFIX}{kind}_PORT']}"
        for name, service in ours().items()
        if (kind := name.partition("-")[0].upper()) in ("API", "GATEWAY")
    }
    assert asked == served
    (tmp_path / "nginx.conf").write_text(config)
    tried = subprocess.run([nginx, "-t", "-p", str(tmp_path), "-c", "nginx.conf"], capture_output=True, text=True)
    assert tried.returncode == 0, tried.stderr


def example() -> dict[str, str]:
    lines = [line for line in (DEPLOY / "nearcast.env.example").read_text().splitlines() if line and line[0] != "#"]
    # Quotes as systemd and compose take them off.
    return {line.partition("=")[0]: "".join(shlex.split(line.partition("=")[2])) for line in lines}


def test_the_example_of_an_environment_is_readable_and_is_not_let_pass_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in example().items():
        monkeypatch.setenv(name, value)
    settings, findings = doctor.read_settings()
    assert settings is not None, findings
    assert settings.allowed_origins == ("https://live.example.com",)
    assert {one.check for one in findings if one.state == "fail"} == {"keys"}
    assert not [one for one in findings if one.check == "settings"], "nothing reads one of them"
    # The file overrides what a unit says: a port in there would be everybody's.
    assert not {name for name in example() if name.endswith("_PORT")}


def unit(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE))


def test_units_run_commands_that_exist_with_settings_that_exist() -> None:
    for path in UNITS:
        said = unit(path)
        if path.suffix == ".target":
            continue
        assert said["ExecStart"].split()[1] in commands(), path.name
        assert {one.partition("=")[0] for one in said["Environment"].split()} - NAMES == {"PYTHONDONTWRITEBYTECODE"}
        assert said["User"] == "nearcast"
        if path.stem != "nearcast-migrate":
            assert int(said["TimeoutStopSec"]) > (LONGEST_DRAIN if "gateway" in path.stem else LEAVE_SECONDS + 10)


def test_the_target_wants_a_process_for_every_port_that_nginx_knows() -> None:
    wanted = unit(DEPLOY / "systemd" / "nearcast.target")["Wants"].split()
    assert {re.sub(r"@\d+", "@", name) for name in wanted} == {path.name for path in UNITS if path.suffix == ".service"}
    nginx = (DEPLOY / "nginx.conf").read_text()
    for kind, ports in PORTS.items():
        assert [name for name in wanted if kind in name] == [f"nearcast-{kind}@{port}.service" for port in ports]
        assert all(f"server 127.0.0.1:{port} " in nginx for port in ports)


def test_systemd_understands_the_units_and_finds_them_tight(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "deploy/install.sh test brings systemd-analyze"
    for path in UNITS:
        here = path.read_text().replace("/opt/nearcast/.venv/bin/nearcast", shutil.which("true") or "")
        (tmp_path / path.name).write_text(here)
    tried = subprocess.run(
        [analyze, "verify", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False
    )
    assert (tried.returncode, tried.stderr.strip()) == (0, "")
    for path in UNITS:
        if path.suffix == ".service" and path.stem != "nearcast-migrate":
            # Out of 100: from what can be reached to what a process of ours may do there.
            rated = subprocess.run(
                [analyze, "security", "--offline=true", "--threshold=20", str(path)], capture_output=True, text=True
            )
            assert rated.returncode == 0, rated.stdout


def instructions() -> list[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_holds_what_runs_and_nothing_else(tmp_path: Path) -> None:
    copied = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in allowed
    for *sources, target in copied:
        for source in sources:
            assert f"!{source}" in allowed, f"{source} would not reach the builder"
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    program = (
        "import app.api, app.gateway, app.worker, app.migrations, importlib, sys\n"
        f"for name in {packages!r}: importlib.import_module(name)\n"
        "assert all((app.api.WEB / 'pages' / f'{page}.html').exists() for page in app.api.PAGES.values())\n"
        "assert (app.migrations.ROOT / 'alembic.ini').exists()\n"
        "assert (app.migrations.ROOT / 'alembic' / 'env.py').exists()\n"
        "print(app.api.WEB)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "web"), "it looked at the checkout instead"


def test_the_image_is_made_of_pinned_packages_and_runs_as_nobody_in_particular() -> None:
    steps = instructions()
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert ["--require-hashes -r requirements.lock" in step or "--no-deps" in step for step in installs] == [True, True]
    words = [word for word, _ in steps]
    last = steps[len(words) - 1 - words[::-1].index("FROM") :]
    users = [rest for word, rest in last if word == "USER"]
    assert len(users) == 1
    assert not users[0].startswith(("0", "root"))
    assert dict(last)["ENTRYPOINT"] == '["nearcast"]'
    environment = dict(part.split("=", 1) for word, rest in last if word == "ENV" for part in rest.split())
    assert {name for name in environment if name.startswith(PREFIX)} <= NAMES
