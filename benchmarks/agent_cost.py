"""What the agent's processes and two other collectors take of their machine, side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil

from broker.embedded import EmbeddedServer
from broker.units import GIB, MIB

INTERVAL_SECONDS, CARDS = 3.0, 8
#: The names under which figures stand.
AGENT, READER = "gpubroker agent", "its reader of NVML"
MOCK = Path(__file__).resolve().parents[1] / "tests" / "agent" / "nvml_mock.c"

_LOOP = """
import time
{setup}
while True:
    began = time.monotonic()
    {look}
    time.sleep({interval} - time.monotonic() + began)
"""
_OTHERS = {
    "nvitop": ("from nvitop import Device, take_snapshots\ndevices = Device.all()", "take_snapshots(devices)"),
    "gpustat": ("import gpustat", "gpustat.new_query()"),
}


def control_file(folder: Path) -> Path:
    """Eight cards that offer what a data-centre card does, two processes on each."""
    card = {
        "name": "Mock RTX 8GB", "total": 8 * GIB, "used": GIB, "reserved": GIB // 8, "temp": 61, "load": 40,
        "power": 150_000, "margin": 25, "slowdown": 90, "shutdown": 95, "maximum": 83, "memory_temp": 70, "fan": 40,
        "memory_load": 20, "limit": 350_000, "energy": 123_456_789, "clock_sm": 1410, "clock_memory": 1215,
        "clock_sm_max": 1980, "clock_memory_max": 2619, "reasons": 4, "ecc": 1, "corrected": 5, "uncorrected": 0,
        "corrected_total": 50, "uncorrected_total": 2, "rows": "3 0 0 0", "pcie_generation": 4, "pcie_width": 16,
        "pcie_generation_max": 4, "pcie_width_max": 16, "pcie_tx": 1500, "pcie_rx": 2500, "pcie_replays": 7,
        "capability": "8.6", "procs": f"{os.getpid()}:{GIB // 2},{os.getppid()}:{GIB // 4}",
        "procload": f"{os.getpid()}:40",
    }  # fmt: skip
    lines = [f"driver 0\ncount {CARDS}\nversion 580.95.05\ncuda 13000\n"]
    lines += [
        f"{number}.{name} {value}\n"
        for number in range(CARDS)
        for name, value in (card | {"uuid": f"GPU-mock-{number}"}).items()
    ]
    path = folder / "cards"
    path.write_text("".join(lines), encoding="ascii")
    return path


@contextmanager
def machine() -> Iterator[dict[str, str]]:
    """The environment of a machine with eight cards.

    Raises:
        ClickException: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise click.ClickException("the stand-in for NVML is built here: install gcc (apt install gcc)")
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name:
        folder = Path(name)
        library = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(MOCK)], check=True)
        yield {**os.environ, "LD_LIBRARY_PATH": name, "NVML_MOCK": str(control_file(folder)), "RUNTIME_DIRECTORY": name}


def cost(seconds: float, settle: float = 8.0) -> dict[str, dict[str, float]]:
    """Share of a core in percent, MiB of resident memory and its growth, and descriptors, of each program."""
    with machine() as environment, EmbeddedServer() as server:
        commands = {AGENT: [sys.executable, "-m", "broker.cli", "agent", "--host", "a"]}
        for name, (setup, look) in _OTHERS.items():
            commands[name] = [sys.executable, "-c", _LOOP.format(setup=setup, look=look, interval=INTERVAL_SECONDS)]
        environment["GPUBROKER_REDIS_URL"] = server.url
        started = {
            name: psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for name, command in commands.items()
        }
        try:
            time.sleep(settle)
            seen: dict[str, psutil.Process | psutil.Popen] = dict(started)
            for child in started[AGENT].children():
                seen[READER] = child
            before, began = {name: usage(process) for name, process in seen.items()}, time.monotonic()
            time.sleep(seconds)
            lasted = time.monotonic() - began
            return {name: _between(before[name], usage(process), lasted) for name, process in seen.items()}
        finally:
            for process in started.values():
                process.terminate()
            for process in started.values():
                process.wait()


def usage(process: psutil.Process | psutil.Popen) -> tuple[float, float, int]:
    """Seconds of processor time so far, resident MiB, and open descriptors."""
    # The process's own clock (clock_getcpuclockid(3)): /proc counts hundredths of a second, too few for so idle ones.
    clock = ~process.pid << 3 | 2
    return time.clock_gettime(clock), process.memory_info().rss / MIB, process.num_fds()


def _between(before: tuple[float, float, int], after: tuple[float, float, int], seconds: float) -> dict[str, float]:
    return {
        "cpu_percent": 100 * (after[0] - before[0]) / seconds,
        "rss_mib": after[1],
        "growth_mib": after[1] - before[1],
        "descriptors": after[2],
    }
