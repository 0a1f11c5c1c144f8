"""The units for systemd and the proxy's configuration: understood by the programs that read them, and tight."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from broker.cli import main

UNITS = {
    "agent": files("agent") / "gpubroker-agent.service",
    "worker": files("worker_hooks") / "gpubroker-worker@.service",
    "serve": files("broker.cli") / "gpubroker-serve.service",
}
#: The most that `systemd-analyze security` may find open, of 100: who needs the GPUs' devices is more open.
EXPOSED_MOST = {"agent": 60, "worker": 45, "serve": 15}
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")


def _values(verb: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNITS[verb].read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("verb", UNITS)
def test_a_verb_prints_its_unit_and_does_nothing_more(verb: str) -> None:
    told = CliRunner().invoke(main, [verb, "--unit"], env={"GPUBROKER_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert told.exit_code == 0
    assert told.stdout == UNITS[verb].read_text()


@pytest.mark.parametrize("verb", UNITS)
def test_what_a_unit_starts_is_the_verb_with_options_that_it_has(verb: str) -> None:
    (line,) = _values(verb)["ExecStart"]
    words = shlex.split(line.replace("$GPUBROKER_WORKER_OPTIONS", "--queue photos --with-scheduler"))
    assert words[:2] == ["/opt/gpubroker/bin/gpubroker", verb]
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    assert not command.make_context(verb, words[2:]).args


@pytest.mark.parametrize("verb", UNITS)
def test_a_unit_has_no_rights_and_no_secret_in_sight(verb: str) -> None:
    values = _values(verb)
    assert values["NoNewPrivileges"] == ["yes"]
    assert values["CapabilityBoundingSet"] == [""]
    assert values["ProtectSystem"] == ["strict"]
    assert "Environment" not in values, "everybody could read it"
    assert values["EnvironmentFile"] == [f"/etc/gpubroker/{verb}.env"]
    assert values["Restart"] == ["always"]
    assert values["User"] == ["gpubroker"] if verb != "serve" else values["DynamicUser"] == ["yes"]


@needs_systemd
@pytest.mark.parametrize("verb", UNITS)
def test_systemd_understands_every_line(verb: str, tmp_path: Path) -> None:
    copy = tmp_path / UNITS[verb].name.replace("@.", "@1.")
    copy.write_text(UNITS[verb].read_text().replace("/opt/gpubroker/bin/gpubroker", "/bin/true"))
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("verb", UNITS)
def test_systemd_finds_little_open(verb: str, tmp_path: Path) -> None:
    copy = tmp_path / UNITS[verb].name.replace("@.", "@1.")
    copy.write_text(UNITS[verb].read_text().replace("/opt/gpubroker/bin/gpubroker", "/bin/true"))
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSED_MOST[verb]}"]
    run = subprocess.run([*words, str(copy)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Overall exposure level" in run.stdout


# -- the proxy ---------------------------------------------------------------------------------------------------------

PROXY = Path(__file__).parents[2] / "deploy" / "nginx" / "gpubroker.conf"


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed here")
def test_nginx_understands_the_example(tmp_path: Path, certificate: Path) -> None:
    folder = certificate.parent
    text = PROXY.read_text().replace("/etc/gpubroker/tls/cert.pem", str(folder / "cert.pem"))
    text = text.replace("/etc/gpubroker/tls/key.pem", str(folder / "key.pem"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind}; " for kind in kinds)
    whole = tmp_path / "nginx.conf"
    whole.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\nhttp {{ access_log off; {temporary}"
        f"include {tmp_path}/site.conf; }}\n"
    )
    (tmp_path / "site.conf").write_text(text)
    run = subprocess.run(["nginx", "-t", "-c", str(whole), "-p", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_example_hands_events_on_as_they_come() -> None:
    text = PROXY.read_text()
    assert "proxy_buffering off;" in text
    (seconds,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(seconds) > 60, "an allocate may wait for a minute"
    assert "proxy_pass http://127.0.0.1:8390;" in text
