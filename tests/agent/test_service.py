"""What systemd hears, on a real socket; one agent for each host, in real processes; logs for programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from agent.service import HostLock, Watchdog, machine, notify
from broker.errors import InvalidRequest
from broker.hardware import FIELDS

URL = "redis://:secret@127.0.0.1:6379/0"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of ``NOTIFY_SOCKET``, in a folder and in none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        if request.param == "path":
            end.bind(str(tmp_path / "notify"))
            monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        else:
            end.bind(b"\0gpubroker-test-%d" % os.getpid())
            monkeypatch.setenv("NOTIFY_SOCKET", f"@gpubroker-test-{os.getpid()}")
        end.settimeout(10)
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            monkeypatch.delenv(name, raising=False)
        yield end


def heard(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def test_the_manager_hears_the_agent_from_beginning_to_end(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    dog = Watchdog()
    assert dog.seconds == 30.0
    dog.ready("2 cards")
    assert heard(manager) == "READY=1\nSTATUS=2 cards"
    dog.alive("2 cards,\nREADY=0 40 °C")
    assert heard(manager) == "WATCHDOG=1\nSTATUS=2 cards, READY=0 40 °C"
    dog.stopping()
    assert heard(manager) == "STOPPING=1\nSTATUS=leaving"


def test_a_watch_too_short_for_three_looks_is_extended_once(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    dog = Watchdog()
    for seconds in (3, 10, 60, 60, 5):
        dog.pace(seconds)
    dog.stopping()
    assert heard(manager) == "WATCHDOG_USEC=180000000"
    assert heard(manager).startswith("STOPPING=1")


@pytest.mark.parametrize(
    ("micros", "pid"), [("", ""), ("0", ""), ("-1", ""), ("many", ""), ("30000000", "1"), ("30000000", "x")]
)
def test_who_is_not_watched_tells_its_status_alone(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, micros: str, pid: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", micros)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    dog = Watchdog()
    assert dog.seconds is None
    dog.pace(3600)
    dog.alive("idle")
    assert heard(manager) == "STATUS=idle"


@pytest.mark.parametrize(
    "path", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "/" + "x" * 300, "@nobody-listens"]
)
def test_nobody_listens_and_nothing_happens(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    assert not notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


HOLD = """
import sys
from agent.service import HostLock
with HostLock(*sys.argv[1:]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(runtime: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of ``h1``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, URL, "default", "h1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def take(url: str = URL, pool: str = "default", host: str = "h1") -> None:
    with HostLock(url, pool, host):
        pass


def test_a_second_agent_for_a_host_is_refused_and_told_who_is_first(other: subprocess.Popen[str]) -> None:
    allowed = f"a host that no other agent publishes for; process {other.pid} does already"
    for url in (URL, "redis://:other@127.0.0.1", "redis://127.0.0.1:6379?db=0", "rediss://u:p@127.0.0.1/0"):
        with pytest.raises(InvalidRequest, match=f"^--host='h1' is not allowed: {allowed}$"):
            take(url)
    take(pool="p2")
    take(host="h2")
    for url in ("redis://127.0.0.1/1", "redis://127.0.0.1:6380", "redis://other", "unix:///run/redis.sock"):
        take(url)


def test_the_kernel_lets_go_of_a_killed_agents_lock(other: subprocess.Popen[str]) -> None:
    with pytest.raises(InvalidRequest):
        take()
    other.send_signal(signal.SIGKILL)
    assert other.wait() == -signal.SIGKILL
    take()
    take()


def test_the_lock_tells_its_pid_and_nothing_else_to_its_owner_alone(runtime: Path) -> None:
    lock = HostLock(URL, "default", "h1")
    with lock:
        assert lock.path.parent == runtime
        assert lock.path.read_text() == f"{os.getpid()}\n"
        assert lock.path.stat().st_mode & 0o777 == 0o600
        assert re.fullmatch(r"agent-[0-9a-f]{32}\.lock", lock.path.name)
        with pytest.raises(InvalidRequest, match=f"process {os.getpid()} does"):
            take()
    lock.release()
    take()


def test_servers_of_a_kind_are_told_apart_whatever_their_order() -> None:
    def path(url: str) -> Path:
        return HostLock(url, "default", "h1").path

    assert path("redis+sentinel://:p@a:1,b:2/svc") == path("redis+sentinel://b:2,a:1/svc/0")
    assert len({path(url) for url in ("redis+sentinel://a:1/svc", "redis+sentinel://a:1/other", "redis+cluster://a:1",
                                      "redis://a:1", "unix:///a", "unix:///b", "unix:///b?db=1")}) == 7  # fmt: skip


def test_a_file_that_is_not_ones_own_is_not_touched(runtime: Path) -> None:
    path = HostLock(URL, "default", "h1").path
    target = runtime / "target"
    target.write_text("precious")
    for link in (os.symlink, os.link):
        link(target, path)
        with pytest.raises(InvalidRequest, match=r"^--host='h1' is not allowed: a host whose lock can be taken; "):
            take()
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(InvalidRequest, match="not this user's own file"):
        take()
    assert target.read_text() == "precious"


def test_another_users_file_is_not_trusted(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(InvalidRequest, match="not this user's own file"):
        take()


def test_without_a_runtime_folder_the_temporary_one_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("", "relative", "/nowhere/at/all"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert HostLock(URL, "default", "h1").path.parent.is_dir()


def test_a_boot_has_a_name_that_does_not_tell_its_id(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    assert machine(boot) == ""
    boot.write_text("\n")
    assert machine(boot) == ""
    boot.write_text("0a2b7e24-bb8b-4e7e-9d3e-6d5a2c7f1a55\n")
    name = machine(boot)
    assert re.fullmatch("[0-9a-f]{16}", name)
    assert machine(boot) == name
    boot.write_text("1a2b7e24-bb8b-4e7e-9d3e-6d5a2c7f1a55\n")
    assert machine(boot) != name
    assert machine() == machine()


LOG = """
import logging, sys
from agent.service import configure_logging
configure_logging(json=sys.argv[1] == "json")
log = logging.getLogger("gpubroker.agent")
log.info("event=agent_started host=%s source=%s", "h1", "nvml")
log.warning("event=publish_failed error=%r host=%s", 'it\\'s "away", key=value\\nnot ', "h1")
log.warning("event=gpu_refused gpus=a,b reason='another host publishes them' empty= host=h1")
log.debug("event=never")
log.warning("no fields at all: it's so")
log.warning("event=odd x='unended y=2 and more")
try:
    raise OSError("gone")
except OSError:
    log.exception("event=report_failed gpu=%s", "GPU-a")
"""


def logged(kind: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", LOG, kind], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    return run.stderr.splitlines()


def test_lines_for_people_stay_as_they_were() -> None:
    first = logged("text")[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO event=agent_started host=h1 source=nvml", first)


def test_lines_for_programs_are_json_with_the_fields() -> None:
    started, failed, refused, words, odd, error = (json.loads(line) for line in logged("json"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", started.pop("time"))
    assert started == {"level": "info", "event": "agent_started", "fields": {"host": "h1", "source": "nvml"}}
    assert failed["level"] == "warning"
    assert failed["fields"] == {"error": 'it\'s "away", key=value\nnot ', "host": "h1"}
    assert "message" not in failed
    assert refused["fields"] == {"gpus": "a,b", "reason": "another host publishes them", "empty": "", "host": "h1"}
    assert (words["event"], words["fields"], words["message"]) == ("", {}, "no fields at all: it's so")
    assert odd["fields"] == {"x": "'unended", "y": "2"}
    assert odd["message"] == "event=odd x='unended y=2 and more"
    assert error["event"] == "report_failed"
    assert error["exception"].endswith("OSError: gone")


def unit() -> dict[str, list[str]]:
    """The values of the unit, by name."""
    found: dict[str, list[str]] = {}
    for line in (files("agent") / "gpubroker-agent.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_watches_the_agent_and_hides_no_process_or_device_from_it() -> None:
    values = unit()
    assert values["Type"] == ["notify"]
    assert values["WatchdogSec"] == ["30"]
    assert values["Restart"] == ["always"]
    assert values["RuntimeDirectory"] == ["gpubroker"]
    assert "Environment" not in values  # a password would be readable there
    hiding = {
        "ProcSubset",
        "ProtectProc",
        "PrivatePIDs",
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
    }
    assert not hiding & values.keys()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed here")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    text = (files("agent") / "gpubroker-agent.service").read_text()
    copy = tmp_path / "gpubroker-agent.service"
    copy.write_text(text.replace("/opt/gpubroker/bin/gpubroker", "/bin/true"))
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


def test_the_manual_has_every_field_that_is_published() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "agent.md").read_text().splitlines()
    rows = [f"| `{name}` | {text} |" for name, text in FIELDS.items()]
    assert [line for line in manual if line in rows] == rows
