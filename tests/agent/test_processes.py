"""Who is who on a host: real processes, in namespaces of their own, and a `/proc` as a container's host has it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.processes import ProcessTable
from broker.process import began, namespace
from broker.values import HeldLease

_SAY = "import os; from broker.process import began; print(os.getpid(), began(os.getpid()), flush=True); input()"
_IN_CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]


def held(pid: int | None, started: str = "", name: str = "job") -> HeldLease:
    return HeldLease(name, 1, pid, "active", 0, token=7, pid_started=started)


def located(table: ProcessTable, lease: HeldLease) -> tuple[int | None, str]:
    found, lives = table.locate({"GPU-a": [lease]})
    return found["GPU-a"][0].pid, lives[lease.id]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", _SAY], stdin=-1, stdout=-1, text=True)
    yield process
    process.kill()
    process.communicate()


def test_a_lease_of_this_hosts_process_is_where_it_says(child: subprocess.Popen[str]) -> None:
    table, started = ProcessTable(), began(child.pid) or ""
    assert located(table, held(child.pid, started)) == (child.pid, "alive")
    assert located(table, held(child.pid)) == (child.pid, "alive")
    assert located(table, held(child.pid, f"1/{namespace('self')}")) == (0, "gone")  # its pid is somebody else's now
    child.kill()
    child.wait()
    assert located(table, held(child.pid, started)) == (0, "gone")
    assert located(table, held(None)) == (None, "")


@pytest.fixture
def contained() -> Iterator[tuple[int, str]]:
    """The pid and the start of a process in a container, in that one's own words."""
    if not shutil.which("unshare") or subprocess.run([*_IN_CONTAINER, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a namespace of pids (unshare)")
    process = subprocess.Popen([*_IN_CONTAINER, sys.executable, "-c", _SAY], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    pid, started = process.stdout.readline().split()
    yield int(pid), started
    process.kill()
    process.communicate()


def test_a_holder_in_a_container_is_found_by_its_own_pid_and_its_start(contained: tuple[int, str]) -> None:
    pid, started = contained
    table = ProcessTable()
    here, life = located(table, held(pid, started))
    assert life == "alive"
    assert here not in (pid, None, 0)
    assert table.look(here or 0).pids[-1] == pid  # type: ignore[union-attr]
    os.kill(here or 0, signal.SIGKILL)
    while table.look(here or 0) is not None:
        pass
    assert located(table, held(pid, started)) == (0, "gone")


def test_from_inside_a_container_nobody_elses_end_is_claimed(contained: tuple[int, str], tmp_path: Path) -> None:
    table = ProcessTable()
    table._own = 1  # the number of some container's namespace
    assert located(table, held(4_000_000, f"12345/{namespace('self')}")) == (None, "")


def process(proc: Path, pid: int, parent: int, started: int = 5, group: str = "/", pids: str = "") -> None:
    """A process in a `/proc` of our own."""
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} " + "0 " * 17 + f"{started} 0 0\n")
    (folder / "status").write_text(f"Name:\tx\nNSpid:\t{pids or pid}\n")
    (folder / "cgroup").write_text(f"0::{group}\n")
    (folder / "comm").write_text("game\n" if pid == 77 else "python\n")


DOCKER = "/system.slice/docker-0123456789abcdef.scope"


def test_a_daemon_that_left_its_parent_is_still_in_its_container(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, group=DOCKER)
    process(tmp_path, 20, 1, group=DOCKER)
    process(tmp_path, 30, 1, group="/user.slice/session-1.scope")
    process(tmp_path, 31, 1, group="/user.slice/session-1.scope")
    table = ProcessTable(tmp_path)
    assert table.parents([20], [10])[20] == 10
    assert table.parents([20], [30])[20] == 1
    assert table.parents([31], [30])[31] == 1  # in a session strangers live side by side


def test_two_holders_in_one_container_claim_nothing_of_each_other(tmp_path: Path) -> None:
    for pid in (10, 11, 20):
        process(tmp_path, pid, 1, group=DOCKER)
    assert ProcessTable(tmp_path).parents([20], [10, 11])[20] == 1


def test_a_child_stays_its_parents_in_whatever_group(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, group=DOCKER)
    process(tmp_path, 11, 10, group=DOCKER)
    process(tmp_path, 12, 11, group=DOCKER)
    assert ProcessTable(tmp_path).parents([12], [10]) == {12: 11, 11: 10, 10: 1}


def test_a_pid_that_comes_again_is_another_process(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    process(tmp_path, 10, 1, started=5, group="/a")
    process(tmp_path, 10, 1, started=6, group="/b") if table.look(10) else None
    assert table.look(10).group == "/b"  # type: ignore[union-attr]


def test_programs_are_found_by_their_names(tmp_path: Path) -> None:
    process(tmp_path, 77, 1)
    process(tmp_path, 78, 1)
    assert ProcessTable(tmp_path).programs(["game", "editor"]) == {"game": {77}, "editor": set()}


def test_only_the_process_that_is_meant_is_ended(child: subprocess.Popen[str]) -> None:
    table = ProcessTable()
    started = table.look(child.pid).started  # type: ignore[union-attr]
    assert not table.kill(child.pid, "1")
    assert child.poll() is None
    assert table.kill(child.pid, started)
    assert child.wait() == -signal.SIGKILL
    assert not table.kill(child.pid, started)
