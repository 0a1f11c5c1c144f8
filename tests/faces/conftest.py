"""The `gpubroker` command as people run it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.cli import main

Cli = Callable[..., Result]


@pytest.fixture
def cli(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs one command on the test's server: ``cli("status", "--json")``."""
    monkeypatch.setenv("GPUBROKER_REDIS_URL", redis_url)
    monkeypatch.delenv("GPUBROKER_POOL", raising=False)
    return lambda *words: CliRunner().invoke(main, words)


@pytest.fixture
def command() -> list[str]:
    """The command's first words, for a process of its own."""
    return [sys.executable, "-m", "broker.cli"]


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def until() -> Callable[..., None]:
    """Returns once a condition holds; fails after ``seconds`` otherwise."""

    def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.01)

    return wait


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Whether a process, not necessarily our child, ends within ten seconds."""

    def ends(pid: int) -> bool:
        deadline = time.monotonic() + 10
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        return not alive(pid)

    return ends


@pytest.fixture
def descendants() -> Callable[[int], set[int]]:
    """Pids of a process's children, their children, and so on."""

    def of(pid: int) -> set[int]:
        parents: dict[int, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
        found, fresh = set[int](), {pid}
        while fresh:
            fresh = {child for child, parent in parents.items() if parent in fresh} - found
            found |= fresh
        return found

    return of
