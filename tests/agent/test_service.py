"""The agent as a service: one for a host, known to systemd, with logs that programs read."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.service import HostLock, Watchdog, _Json, machine, notify
from broker import Broker, InvalidRequest
from tests.agent.conftest import Cards, state, wait_for, wait_for_samples

Agent = Callable[..., "subprocess.Popen[str]"]
URL = "redis://:secret@127.0.0.1:6379/0"
_HOLD = f"from agent.service import HostLock\nwith HostLock({URL!r}, 'p', 'h1'): print('held', flush=True); input()"


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))


def test_a_second_agent_of_a_host_is_refused_and_the_first_ones_end_is_enough() -> None:
    other = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=-1, stdout=-1, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InvalidRequest, match=f"process {other.pid} does already"), HostLock(URL, "p", "h1"):
        pass
    with HostLock(URL, "p", "h2"), HostLock(URL, "q", "h1"), HostLock(URL.replace("/0", "/1"), "p", "h1"):
        pass
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with HostLock(URL.replace("secret", "another"), "p", "h1") as lock:
        assert lock.path.stat().st_mode & 0o077 == 0
        assert lock.path.read_text() == f"{os.getpid()}\n"


def test_a_lock_does_not_follow_a_link(tmp_path: Path) -> None:
    path = HostLock(URL, "p", "h1").path
    (tmp_path / "precious").write_text("precious")
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(InvalidRequest, match="cannot be made"), HostLock(URL, "p", "h1"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_machine_has_one_name_that_does_not_tell_its_boots() -> None:
    assert machine() == machine()
    assert len(machine()) == 16
    assert machine() not in Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", "")


@pytest.mark.parametrize("abstract", [True, False])
def test_systemd_hears_that_the_agent_is_ready_and_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    address = f"\0gpubroker-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        dog = Watchdog()
        for _ in range(2):
            dog.alive("2 GPUs\nof h1")
        dog.stopping()
        told = [heard.recv(1000).decode() for _ in range(3)]
    assert told == [
        "READY=1\nWATCHDOG=1\nSTATUS=2 GPUs of h1", "WATCHDOG=1\nSTATUS=2 GPUs of h1", "STOPPING=1",
    ]  # fmt: skip


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")


@pytest.mark.parametrize(("text", "fields"), [
    ("event=overuse lease=a reason='it takes more'", {"event": "overuse", "lease": "a", "reason": "it takes more"}),
    ("it's plain", {"message": "it's plain"}), ("", {"message": ""}),
])  # fmt: skip
def test_a_log_line_as_json_has_its_fields(text: str, fields: dict[str, str]) -> None:
    record = logging.LogRecord("gpubroker.agent", logging.WARNING, "", 0, text, None, None)
    said = json.loads(_Json().format(record))
    assert said.pop("level") == "warning"
    assert said.pop("time")
    assert said == fields


def test_a_second_agent_ends_with_a_clear_word_and_the_first_goes_on(
    quick: Broker, agent: Agent, mock_cards: Cards, redis_url: str
) -> None:
    first = agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    second = subprocess.run(
        [sys.executable, "-m", "broker.cli", "agent", "--simulate", "1x6GiB", "--host", "h1", "--redis-url", redis_url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 2
    assert f"process {first.pid} does already" in second.stderr
    wait_for_samples(quick)
    assert [gpu.uuid for gpu in quick.gpus()] == ["GPU-mock-0", "GPU-mock-1"]


def test_an_agent_that_another_machine_takes_over_from_ends_aloud(
    quick: Broker, agent: Agent, mock_cards: Cards, tmp_path: Path
) -> None:
    from broker.publish import Publisher
    from broker.values import HostReport

    process = agent(mock=mock_cards)
    wait_for(quick, state("GPU-mock-0", "OPTIMAL"))
    Publisher(quick, "h1").publish([], 60_000, host_report=HostReport(machine=machine()))  # as one in a container would
    assert process.wait(timeout=20) == 1
    assert "a newer agent publishes for host 'h1'" in (tmp_path / "h1.log").read_text()


def test_the_unit_for_systemd_is_one(tmp_path: Path) -> None:
    unit = subprocess.run(
        [sys.executable, "-m", "broker.cli", "agent", "--unit"], capture_output=True, text=True, check=True
    ).stdout
    assert "Type=notify" in unit
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("there is no systemd-analyze here that could look at it")
    path = tmp_path / "gpubroker-agent.service"
    path.write_text(unit.replace("/usr/local/bin/gpubroker", sys.executable).replace("/etc/gpubroker", str(tmp_path)))
    seen = subprocess.run([verify, "verify", str(path)], capture_output=True, text=True, check=False)
    assert "gpubroker-agent.service" not in seen.stderr, seen.stderr
