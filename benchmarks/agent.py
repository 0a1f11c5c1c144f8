"""What an agent costs its machine, how fresh its news is, and what a fleet of them costs one Redis.

Method: eight cards in a library with NVML's ABI (``tests/agent/nvml_mock.c``, built here by the machine's C compiler),
an embedded server without persistence. Everything is read every 3 s by three programs side by side: ``gpubroker agent``
and the process that asks NVML for it, nvitop's ``take_snapshots`` and gpustat's ``new_query`` in loops of their own.
Their processor time and memory are what the kernel counts between two readings of ``/proc``.

Fresh: from the call that publishes eight cards until another process, which sleeps on the stream, holds the entry.
Fleet: one process publishes for 1,000 hosts in turn, 8 cards each, paced to 3 s a round; another takes and gives back
a lease all the while; the server's processor time is its own count (``INFO cpu``). Day: so many samples of one host, as
fast as they go, 28,800 are a day at 3 s; the first fifth is not counted, as everything then gets its size.

``python -m benchmarks.agent [--seconds S] [--fleet-seconds S] [--samples N] [--day N] [--json]``
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from agent.sampler import Sampler
from agent.sources import Process, Reading
from broker import Broker, InsufficientMemory, State
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import GIB
from broker.values import GpuReport

INTERVAL_SECONDS, CARDS, HOSTS = 3.0, 8, 1000
#: What is aimed at; see ``docs/costs.md`` for what was seen.
CPU_MOST, RSS_MOST_MIB, VISIBLE_MOST_MS = 0.5, 45.0, 5.0
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
    """Eight cards that offer what a data-centre card does, three processes on each."""
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
    """The environment of a machine with eight cards."""
    with tempfile.TemporaryDirectory(prefix="bench-agent-") as name:
        folder = Path(name)
        library = folder / "libnvidia-ml.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(MOCK)], check=True)
        yield {**os.environ, "LD_LIBRARY_PATH": name, "NVML_MOCK": str(control_file(folder)), "RUNTIME_DIRECTORY": name}


def cost(seconds: float, settle: float = 8.0) -> dict[str, dict[str, float]]:
    """Share of a core in percent, MiB of resident memory and its growth, and descriptors, of each program."""
    with machine() as environment, EmbeddedServer() as server:
        commands = {"gpubroker agent": [sys.executable, "-m", "broker.cli", "agent", "--host", "a"]}
        for name, (setup, look) in _OTHERS.items():
            commands[name] = [sys.executable, "-c", _LOOP.format(setup=setup, look=look, interval=INTERVAL_SECONDS)]
        environment["GPUBROKER_REDIS_URL"] = server.url
        started = {
            name: psutil.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for name, command in commands.items()
        }
        try:
            time.sleep(settle)
            seen = dict(started)
            for child in started["gpubroker agent"].children():
                seen["its reader of NVML"] = child
            before, began = {name: _usage(process) for name, process in seen.items()}, time.monotonic()
            time.sleep(seconds)
            lasted = time.monotonic() - began
            return {name: _between(before[name], _usage(process), lasted) for name, process in seen.items()}
        finally:
            for process in started.values():
                process.terminate()
            for process in started.values():
                process.wait()


def _usage(process: psutil.Process) -> tuple[float, float, int]:
    with process.oneshot():
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss / (1 << 20), process.num_fds()


def _between(before: tuple[float, float, int], after: tuple[float, float, int], seconds: float) -> dict[str, float]:
    return {
        "cpu_percent": 100 * (after[0] - before[0]) / seconds,
        "rss_mib": after[1],
        "growth_mib": after[1] - before[1],
        "descriptors": after[2],
    }


def reports(host: int, heat: int = 60) -> list[GpuReport]:
    """What the agent of a host says of eight well cards."""
    return [
        GpuReport(
            f"GPU-{host}-{card}", card, "Bench 8GB", State.OPTIMAL, State.OPTIMAL, "", 8 * GIB, GIB, 0, 0, heat, 40,
            150_000, 2, "8.6", hardware={"margin_c": 25, "clock_sm_mhz": 1410, "clock_reasons": "power_cap"},
        )
        for card in range(CARDS)
    ]  # fmt: skip


def _watch(url: str, count: int, heard: Any) -> None:
    """Tell when each of so many samples is there, by the clock that all processes share."""
    with Broker.from_url(url) as broker:
        place, seen = "$", list[float]()
        heard.send("ready")
        while len(seen) < count:
            reply = broker.redis.xread({broker.keys.metrics("h0"): place}, block=10_000)
            at = time.monotonic()
            entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
            place = entries[-1][0]
            seen += [at] * sum(fields["uuid"] == "GPU-0-0" for _, fields in entries)
        heard.send(seen)


def visible(count: int) -> dict[str, float]:
    """Milliseconds from the call that publishes until another process has the sample: median and p99."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        agent, told = Publisher(broker, "h0"), list[float]()
        agent.publish(reports(0), 3000)
        process = context.Process(target=_watch, args=(server.url, count, theirs))
        process.start()
        ours.recv()
        time.sleep(0.2)  # until it sleeps on the stream
        for _ in range(count):
            told.append(time.monotonic())
            agent.publish(reports(0), 3000)
            time.sleep(0.01)
        seen = ours.recv()
        process.join()
    waits = [1000 * (there - sent) for sent, there in zip(told, seen, strict=False)]
    return {"p50_ms": median(waits), "p99_ms": quantiles(waits, n=100)[98]}


def _borrow(url: str, over: Event, heard: Any) -> None:
    """Take and give back, twenty times a second, until it is over."""
    waits = []
    with Broker.from_url(url) as broker:
        while not over.is_set():
            began = time.perf_counter()
            with suppress(InsufficientMemory):
                broker.acquire("1GiB").release()
            waits.append(1000 * (time.perf_counter() - began))
            time.sleep(0.05)
    heard.send(waits)


def fleet(seconds: float, hosts: int = HOSTS) -> dict[str, float]:
    """What 1,000 hosts cost one server."""
    context = get_context("spawn")
    over, (ours, theirs) = context.Event(), context.Pipe()
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        agents = [Publisher(broker, f"h{number}") for number in range(hosts)]
        for number, agent in enumerate(agents):
            agent.publish(reports(number), 3000)
        process = context.Process(target=_borrow, args=(server.url, over, theirs))
        process.start()
        broker.redis.config_resetstat()
        before, began, waits = broker.redis.info("cpu"), time.monotonic(), list[float]()
        for number in range(int(seconds / INTERVAL_SECONDS * hosts)):
            due = began + number * INTERVAL_SECONDS / hosts
            time.sleep(max(0.0, due - time.monotonic()))
            sent = time.perf_counter()
            agents[number % hosts].publish(reports(number % hosts, 40 + number % 20), 3000)
            waits.append(1000 * (time.perf_counter() - sent))
        lasted, after = time.monotonic() - began, broker.redis.info("cpu")
        calls = broker.redis.info("commandstats")["cmdstat_evalsha"]
        over.set()
        borrowed = ours.recv()
        process.join()
        streams = sum(broker.redis.memory_usage(broker.keys.metrics(agent.host)) or 0 for agent in agents[:20])
    used = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return {
        "samples_per_second": len(waits) * CARDS / lasted,
        "server_core_percent": 100 * used / lasted,
        "script_mean_us": float(calls["usec_per_call"]),
        "publish_p99_ms": quantiles(waits, n=100)[98],
        "borrow_p99_ms": quantiles(borrowed, n=100)[98],
        "stream_bytes_per_host": streams / 20,
    }


class _Ready:
    """Eight cards that are read at once."""

    name = "ready"

    def __init__(self) -> None:
        self._looks = 0

    def read(self, held: Any) -> list[Reading]:
        self._looks += 1
        heat = 50 + self._looks % 30
        return [
            Reading(
                f"GPU-d-{card}", card, "Bench 8GB", 8 * GIB, GIB, 0, heat, 40, 150_000, (Process(os.getpid(), GIB),)
            )
            for card in range(CARDS)
        ]

    def published(self, states: Any) -> None: ...

    def close(self) -> None: ...


def _live_a_day(url: str, count: int, heard: Any) -> None:
    with Broker.from_url(url) as broker:
        sampler, own, began = Sampler(broker, "d", _Ready()), psutil.Process(), time.monotonic()
        for number in range(count):
            if number == count // 5:
                before, memory = _usage(own), broker.redis.info("memory")["used_memory"]
            sampler.sample()
        after, length = _usage(own), broker.redis.xlen(broker.keys.metrics("d"))
        heard.send({
            "samples": count, "seconds": time.monotonic() - began, "agent_growth_kib": 1024 * (after[1] - before[1]),
            "descriptors_growth": after[2] - before[2], "stream_entries_per_card": length / CARDS,
            "server_growth_kib": (broker.redis.info("memory")["used_memory"] - memory) / 1024,
        })  # fmt: skip


def day(count: int) -> dict[str, float]:
    """What has grown after so many samples."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    with EmbeddedServer() as server:
        process = context.Process(target=_live_a_day, args=(server.url, count, theirs))
        process.start()
        told: dict[str, float] = ours.recv()
        process.join()
    return told


def verdict(value: float, most: float) -> str:
    """Whether a figure met its target."""
    return f"at most {most:g}: {'met' if value <= most else 'missed'}"


def show(console: Console, told: dict[str, Any]) -> None:
    """The figures as tables."""
    table = Table("program", "% of a core", "MiB resident", "MiB grown", "descriptors", title="8 cards, every 3 s")
    for name, one in told["cost"].items():
        table.add_row(
            name, *(f"{one[key]:.2f}" for key in ("cpu_percent", "rss_mib", "growth_mib")), str(one["descriptors"])
        )
    console.print(table)
    own, fresh = told["cost"]["gpubroker agent"], told["visible"]
    rows = [
        ("the agent, % of a core", own["cpu_percent"], verdict(own["cpu_percent"], CPU_MOST)),
        ("the agent, MiB resident", own["rss_mib"], verdict(own["rss_mib"], RSS_MOST_MIB)),
        ("sample to visible, ms, p50", fresh["p50_ms"], ""),
        ("sample to visible, ms, p99", fresh["p99_ms"], verdict(fresh["p99_ms"], VISIBLE_MOST_MS)),
        *((f"{HOSTS:,} hosts: {name}", value, "") for name, value in told["fleet"].items()),
        *((f"a day: {name}", value, "") for name, value in told["day"].items()),
    ]
    figures = Table("figure", "seen", "target")
    for name, value, target in rows:
        figures.add_row(name.replace("_", " "), f"{value:,.2f}", target)
    console.print(figures)


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="For the cost of an agent.")
@click.option("--samples", default=500, show_default=True, help="For sample to visible.")
@click.option("--fleet-seconds", default=20.0, show_default=True, help="For 1,000 hosts.")
@click.option("--day", "count", default=3000, show_default=True, help="Samples; a day has 28800.")
@click.option("--json", "as_json", is_flag=True, help="Print raw figures.")
def main(seconds: float, samples: int, fleet_seconds: float, count: int, as_json: bool) -> None:
    """Measure, and print what was seen beside what is aimed at."""
    console = Console(stderr=as_json)
    told: dict[str, Any] = {}
    steps: dict[str, Callable[[], Any]] = {
        "cost": lambda: cost(seconds), "visible": lambda: visible(samples), "fleet": lambda: fleet(fleet_seconds),
        "day": lambda: day(count),
    }  # fmt: skip
    for name, step in steps.items():
        with console.status(name):
            told[name] = step()
    if as_json:
        click.echo(json.dumps(told))
    else:
        show(console, told)


if __name__ == "__main__":
    main()
