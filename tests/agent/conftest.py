"""A library with NVML's real ABI, built here, and agents as processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import Broker
from broker.models import Event

GIB = 1 << 30


class Cards:
    """The control file of the mock library: two healthy 8 GiB cards to begin with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, object] = {"driver": 0, "count": 2}
        for card in range(2):
            own = {"uuid": f"GPU-mock-{card}", "name": "Mock RTX 8GB", "total": 8 * GIB, "used": GIB // 4,
                   "reserved": GIB // 8, "temp": 41 + card, "load": 7, "power": 30_000}  # fmt: skip
            self.values |= {f"{card}.{name}": value for name, value in own.items()}
        self.set()

    def set(self, changes: dict[str, object] | None = None) -> None:
        """Change values; the library reads them at its next call. ``None`` takes one out."""
        self.values |= changes or {}
        text = "".join(f"{name} {value}\n" for name, value in self.values.items() if value is not None)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="latin-1")
        fresh.replace(self.path)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a ``libnvidia-ml.so.1`` that does as its control file says."""
    folder = tmp_path_factory.mktemp("nvml")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "these tests build a small C library: install gcc (apt install gcc)"
    source = Path(__file__).with_name("nvml_mock.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libnvidia-ml.so.1"), str(source)],
        check=True,
    )
    return folder


@pytest.fixture
def mock_cards(tmp_path: Path) -> Cards:
    return Cards(tmp_path / "cards")


@pytest.fixture
def agent(redis_url: str, nvml_library: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts agents as processes; whatever still runs at the end is told to leave."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, mock: Cards | None = None, host: str = "h1", library: Path = nvml_library
    ) -> subprocess.Popen[str]:
        environment = {**os.environ, "GPUBROKER_REDIS_URL": redis_url, "GPUBROKER_HOST": host}
        if mock is not None:
            environment |= {"LD_LIBRARY_PATH": str(library), "NVML_MOCK": str(mock.path)}
        process = subprocess.Popen(
            [sys.executable, "-m", "broker.cli", "agent", *arguments], env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=(tmp_path / f"{host}.log").open("w"),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0


@pytest.fixture
def quick(broker: Broker) -> Broker:
    """A pool in fast motion."""
    broker.update_config(monitor_interval=0.1, throttle_cooldown_seconds=0.3, critical_pause_seconds=0.3)
    return broker


def wait_for(broker: Broker, wanted: Callable[[Event], bool], after: str = "0", beats: int = 100) -> Event:
    """The first event that is wanted, from a place in the journal on; gives up after so many 200 ms without any."""
    for event in broker.follow(after, block_ms=200):
        if event is None:
            beats -= 1
            assert beats, "the event did not come"
        elif wanted(event):
            return event
    raise AssertionError


def state(uuid: str, to: str) -> Callable[[Event], bool]:
    """Whether an event says that a GPU went into a state."""
    return lambda event: event.kind == "state" and (event.fields["gpu"], event.fields["to"]) == (uuid, to)


def wait_for_samples(broker: Broker, count: int = 2) -> None:
    """Until the one host of the pool has published so often again: what changed before is in the last of them."""
    seen = {broker.hosts()[0]["sampled_at"]}
    while len(seen) <= count:
        seen.add(broker.hosts()[0]["sampled_at"])
