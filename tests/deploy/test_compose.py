"""docker-compose.yml, the Dockerfile and .env: what is in them, and the same commands run as processes here."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
import redis
from click.testing import CliRunner
from rq import Queue
from rq.job import JobStatus

from broker import Broker, lifeline
from broker.acl import USUAL
from broker.cli import main
from tests.deploy import guarded_jobs as jobs
from tests.deploy.composed import ROOT, Missing, as_process, compose, env_file, has_compose, programs
from tests.deploy.servers import HOST, free_port, until
from tests.deploy.versions import acl_version
from worker_hooks.request import GpuRequest

PATIENCE = 60
SECRETS = {
    name: f"{name.lower()}-of-the-test"
    for name in env_file(ROOT / ".env.example")
    if re.search("_(PASSWORD|TOKEN)$", name)
}
FILLED = {**env_file(ROOT / ".env.example"), **SECRETS}
SERVICES: dict[str, dict[str, Any]] = compose(FILLED)["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "gpubroker"}


def _instructions() -> list[list[str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def _dockerfile() -> dict[str, list[str]]:
    """The last stage: of each instruction its last words; of HEALTHCHECK the command."""
    last = dict(_instructions())
    found = {name: shlex.split(words) for name, words in last.items()}
    check = last["HEALTHCHECK"].partition(" CMD ")[2]
    return {**found, "HEALTHCHECK": [word.strip('", ') for word in check.strip("[]").split(",")]}


def test_there_is_a_service_for_each_part_and_profiles_for_cards_and_monitoring() -> None:
    profiles = {name: tuple(service.get("profiles", ())) for name, service in SERVICES.items()}
    assert profiles == {
        "users": (), "redis": (), "broker": (),
        "agent": ("gpu",), "worker": ("gpu",), "agent-simulated": ("simulated",), "worker-simulated": ("simulated",),
        "prometheus": ("monitoring",), "grafana": ("monitoring",),
    }  # fmt: skip
    assert SERVICES["worker"]["deploy"]["replicas"] == SERVICES["worker-simulated"]["deploy"]["replicas"] == 2
    for name in ("agent", "worker"):
        (cards,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert cards == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened_and_reached_from_this_machine_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "network_mode" not in service
    assert not service.get("cap_add")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    assert service["image"] == "gpubroker" or re.fullmatch(r"[\w/]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"])
    user = service.get("user", "")
    assert user not in ("0", "root", "0:0")
    assert user or service["image"] == "gpubroker", "the Dockerfile's user, or one that is named"


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"users"}))
def test_every_service_that_goes_on_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= check.keys()


def test_the_server_loses_no_lease_and_knows_its_users() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--aclfile"] == "/secrets/users.acl"
    assert SERVICES["redis"]["depends_on"]["users"]["condition"] == "service_completed_successfully"


def _commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        if "entrypoint" in service:
            line = service["command"][0].partition("&&")[0]
            yield name, shlex.split(line)[1:]
        else:
            yield name, service["command"]
        if service["healthcheck"].get("test", [""])[0] == "CMD":
            yield f"{name}'s health check", service["healthcheck"]["test"][2:]
    yield "the Dockerfile's health check", _dockerfile()["HEALTHCHECK"][1:]


@pytest.mark.parametrize(("where", "words"), [*_commands()], ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_a_verb_with_these_options(where: str, words: list[str]) -> None:
    verb = main.get_command(click.Context(main), words[0])
    assert verb is not None, words
    context = verb.make_context(words[0], list(words[1:]), resilient_parsing=False)
    assert not context.args
    assert CliRunner().invoke(main, [words[0], "--help"]).exit_code == 0


def test_a_secret_stands_in_no_command_and_each_service_has_only_its_own() -> None:
    for name, service in SERVICES.items():
        told = " ".join([*service.get("entrypoint", []), *service.get("command", []), str(service["healthcheck"])])
        assert not any(secret in told for secret in SECRETS.values()), name
    holders = {
        secret: sorted(
            name for name, service in SERVICES.items() if SECRETS[secret] in str(service.get("environment", ""))
        )
        for secret in SECRETS
    }
    assert holders == {
        "GPUBROKER_AGENT_PASSWORD": ["agent", "agent-simulated", "users"],
        "GPUBROKER_WORKER_PASSWORD": ["users", "worker", "worker-simulated"],
        "GPUBROKER_BROKER_PASSWORD": ["broker", "users"],
        "GPUBROKER_VIEWER_PASSWORD": ["redis", "users"],
        "GPUBROKER_PRODUCER_PASSWORD": ["users"],
        "GPUBROKER_VIEWER_TOKEN": ["broker", "users"],
        "GPUBROKER_OPERATOR_TOKEN": ["broker"], "GPUBROKER_ADMIN_TOKEN": ["broker"],
        "GRAFANA_ADMIN_PASSWORD": ["grafana"],
    }  # fmt: skip


def test_the_example_has_every_variable_and_no_secret() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = env_file(ROOT / ".env.example")
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) == set(example)
    assert all(not value for name, value in example.items() if name in SECRETS)
    assert {f"GPUBROKER_{role.upper()}_PASSWORD" for role in USUAL} <= set(example)
    with pytest.raises(Missing, match="gpubroker acl --secrets"):
        compose(example)
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    volumes = compose(FILLED)["volumes"]
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        assert source in volumes or (ROOT / source).exists(), mount
        assert source in volumes or mount.endswith(":ro"), mount


@pytest.mark.skipif(not has_compose(), reason="the docker client of this machine has no `docker compose`")
def test_compose_itself_reads_the_file_as_these_tests_do(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in FILLED.items()))
    words = ["docker", "compose", "--env-file", str(tmp_path / ".env")]
    words += [word for profile in ("gpu", "simulated", "monitoring") for word in ("--profile", profile)]
    clean = {name: value for name, value in os.environ.items() if name not in FILLED}
    run = subprocess.run([*words, "config", "--format", "json"], cwd=ROOT, env=clean, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    read = json.loads(run.stdout)["services"]
    assert read.keys() == SERVICES.keys()
    for name, service in SERVICES.items():
        for part in ("command", "entrypoint", "environment", "read_only", "cap_drop", "security_opt", "user"):
            # Compose prints what it would read again: a dollar is doubled.
            assert _undoubled(read[name].get(part)) == service.get(part), (name, part)


def _undoubled(node: Any) -> Any:
    if isinstance(node, str):
        return node.replace("$$", "$")
    if isinstance(node, list):
        return [_undoubled(one) for one in node]
    return {name: _undoubled(one) for name, one in node.items()} if isinstance(node, dict) else node


# -- the Dockerfile ----------------------------------------------------------------------------------------------------


def test_the_image_is_built_in_stages_on_a_pinned_base_for_a_user_without_rights() -> None:
    made = _instructions()
    bases = [words for name, words in made if name == "FROM"]
    assert len(bases) == 2
    assert all(base.startswith("${PYTHON}") for base in bases)
    (pinned,) = [words for name, words in made if name == "ARG"]
    assert re.fullmatch(r"PYTHON=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", pinned)
    last = _dockerfile()
    assert last["USER"] == ["10001"]
    assert [name for name, _ in made].index("USER") > max(
        place for place, (name, _) in enumerate(made) if name == "RUN"
    )
    assert last["HEALTHCHECK"][0] == "gpubroker"
    after = made[max(place for place, (name, _) in enumerate(made) if name == "FROM") :]
    assert [words for name, words in after if name == "COPY"] == ["--from=build /opt/gpubroker /opt/gpubroker"]


def test_the_image_gets_every_package_and_an_extra_that_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = [words.split()[:-1] for name, words in _instructions() if name == "COPY" and "--from" not in words]
    sources = {source for words in copied for source in words}
    assert all((ROOT / source).exists() for source in sources)
    folders = project["tool"]["setuptools"]["package-dir"]
    for package in project["tool"]["setuptools"]["packages"]:
        path = folders.get(package, package.replace(".", "/"))
        assert any(path == source or path.startswith(f"{source}/") for source in sources), package
    for needed in (project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"):
        assert needed in sources
    (install,) = [words for name, words in _instructions() if name == "RUN" and "pip " in words]
    extras = re.search(r"'\.\[([\w,]+)\]'", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == sources, "what is copied is let into the build, and nothing else"


# -- the same as processes ---------------------------------------------------------------------------------------------


class Composed:
    """Services of the file as processes; the ports and folders are this machine's."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.port, self.http_port = free_port(), free_port()
        (folder / "secrets").mkdir()
        (folder / "data").mkdir()
        self.env, self.folder, self._stack = folder / ".env", folder, stack
        self.env.write_text((ROOT / ".env.example").read_text().replace("=./examples", f"={ROOT}"))
        self._path = programs(folder / "bin")
        made = self.run(["gpubroker", "acl", "--secrets", str(self.env)], {})
        assert made.returncode == 0, made.stderr
        self.values = env_file(self.env)
        self.services = compose(self.values)["services"]
        self._swaps = {
            "@redis:6379": f"@{HOST}:{self.port}", "/secrets": str(folder / "secrets"), "/data": str(folder / "data"),
            "gpubroker acl ": f"gpubroker acl --server {acl_version()} ",
            "0.0.0.0": HOST, "8390": str(self.http_port), "127.0.0.1:8390": f"{HOST}:{self.http_port}",
        }  # fmt: skip

    def _environment(self, own: dict[str, str]) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GPUBROKER_", "RQ_"))}
        return {**kept, "PATH": self._path, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder), **own}

    def run(self, words: list[str], own: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            words, env=self._environment(own), capture_output=True, text=True, timeout=PATIENCE, cwd=self.folder
        )

    def complete(self, name: str) -> None:
        """A service that runs and is done."""
        done = self.run(*as_process(self.services[name], self._swaps))
        assert done.returncode == 0, done.stderr

    def start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """A service that goes on; it dies with the test."""
        words, own = as_process(self.services[name], self._swaps)
        log = self._stack.enter_context((self.folder / f"{name}.log").open("ab"))
        process = lifeline.spawn([*words, *more], log, environment=self._environment(own), folder=ROOT)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def healthy(self, name: str) -> bool:
        """What the service's own health check says."""
        service = self.services[name]
        _, own = as_process(service, self._swaps)
        words = service["healthcheck"]["test"][1:]
        if words[-1] == "serve":
            words = [*words, "--url", f"http://{HOST}:{self.http_port}"]
        return self.run(words, own).returncode == 0

    def url(self, role: str) -> str:
        """As a role connects."""
        password = self.values[f"GPUBROKER_{role.upper()}_PASSWORD"]
        return f"redis://gpubroker-default-{role}:{password}@{HOST}:{self.port}/0"


@pytest.mark.timeout(300)
def test_the_commands_of_the_file_run_a_job_as_processes_of_this_machine(tmp_path: Path) -> None:
    with ExitStack() as stack:
        made = Composed(tmp_path, stack)
        made.complete("users")
        assert (tmp_path / "secrets" / "users.acl").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "secrets" / "viewer.token").read_text() == f"{made.values['GPUBROKER_VIEWER_TOKEN']}\n"
        made.start("redis", "--port", str(made.port), "--bind", HOST)
        viewer = stack.enter_context(Broker.from_url(made.url("viewer")))
        until(lambda: _answers(viewer), "the server", PATIENCE)
        made.start("broker")
        made.start("agent-simulated")
        workers = [made.start("worker-simulated") for _ in range(2)]
        until(lambda: len(viewer.gpus()) == 2, "two cards", PATIENCE)
        with redis.Redis.from_url(made.url("producer")) as producer:
            queue = Queue("photos", connection=producer)
            meta = {"gpu": GpuRequest.checked("4GiB").as_meta()}
            done = [queue.enqueue(jobs.borrow, number, meta=meta) for number in range(4)]
            until(lambda: all(job.get_status() == JobStatus.FINISHED for job in done), "four jobs", PATIENCE)
            assert [job.return_value() for job in done] == [0, 2, 4, 6]
        granted = [event.fields["id"] for event in viewer.events() if event.kind == "granted"]
        assert len(granted) == 4, "each had a lease"
        assert all(worker.poll() is None for worker in workers)
        for name in ("agent-simulated", "worker-simulated", "broker"):
            until(lambda name=name: made.healthy(name), f"a healthy {name}", PATIENCE)  # type: ignore[misc]
        logs = "".join((tmp_path / f"{name}.log").read_text() for name in ("redis", "broker", "agent-simulated"))
        assert not any(made.values[name] in logs for name in SECRETS), "no secret in a log"
    assert not any(made.values[name] in (tmp_path / "worker-simulated.log").read_text() for name in SECRETS)


def _answers(viewer: Broker) -> bool:
    try:
        return viewer.leases() == []
    except Exception:  # noqa: BLE001 - it is being started
        return False
