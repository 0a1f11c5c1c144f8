"""What an agent costs its machine, how fresh its news is, and what a fleet of them costs one Redis.

Method: eight cards in a library with NVML's ABI (``tests/agent/nvml_mock.c``, built here by the machine's C compiler),
an embedded server without persistence. Everything is read every 3 s by three programs side by side: ``gpubroker agent``
and the process that asks NVML for it, nvitop's ``take_snapshots`` and gpustat's ``new_query`` in loops of their own.
Their processor time is what the clock of each process counted meanwhile (``benchmarks/agent_cost.py``).

Fresh: from the call that publishes eight cards until another process, which sleeps on the stream, holds the entry.
Fleet: one process publishes for 1,000 hosts in turn, 8 cards each, paced to 3 s a round; another takes and gives back
a lease all the while; the server's processor time is its own count (``INFO cpu``). Day: so many samples of one host, as
fast as they go, 28,800 are a day at 3 s; growth is counted from the first fifth on, as everything gets its size before.

``python -m benchmarks.agent [--seconds S] [--fleet-seconds S] [--samples N] [--day N] [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click
import psutil

from agent.sampler import Sampler
from agent.sources import Process, Reading
from benchmarks import frame
from benchmarks.agent_cost import AGENT, CARDS, INTERVAL_SECONDS, READER, cost, usage
from broker import Broker, InsufficientMemory, State, plans
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.thresholds import Thresholds
from broker.units import GIB
from broker.values import GpuReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOSTS = 1000
#: What is aimed at.
CPU_MOST, RSS_MOST_MIB, VISIBLE_MOST_MS, PACE_LEAST = 0.5, 45.0, 5.0, 0.99
#: Growth over a day: allocators breathe, and streams are cut by whole nodes of 100 entries.
GROWTH_MOST_KIB, NODE = 1024.0, 100

#: A figure: name, value, and what it should be: "at most" or "at least" a number, or nothing.
Seen = tuple[str, float, tuple[str, float] | None]


@dataclass(frozen=True, slots=True)
class Much:
    """How much of everything: seconds, samples."""

    seconds: float
    samples: int
    fleet_seconds: float
    day: int


QUICK, LONG = Much(18.0, 300, 10.0, 2000), Much(60.0, 1000, 30.0, 28_800)


@contextmanager
def beside(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run ``target`` with ``arguments`` and one end of a pipe in a process of its own; the other end is given."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its death is heard: EOFError instead of waiting for ever
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def reports(host: int, heat: int = 60) -> list[GpuReport]:
    """What the agent of a host says of eight well cards."""
    return [
        GpuReport(
            f"GPU-{host}-{card}", card, "Bench 8GB", State.OPTIMAL, State.OPTIMAL, "", 8 * GIB, GIB, 0, 0, heat, 40,
            150_000, 2, "8.6", hardware={"margin_c": 25, "clock_sm_mhz": 1410, "clock_reasons": "power_cap"},
        )
        for card in range(CARDS)
    ]  # fmt: skip


def _watch(url: str, count: int, heard: Connection) -> None:
    """Tell when each of so many samples is there, by the clock that all processes share."""
    with Broker.from_url(url) as broker:
        place, seen = "$", list[float]()
        heard.send("ready")
        while len(seen) < count:
            reply: Any = broker.redis.xread({broker.keys.metrics("h0"): place}, block=10_000)
            at = time.monotonic()
            if not reply:
                raise TimeoutError("no sample came for 10 s")
            entries = next(iter(reply.values()))[0] if isinstance(reply, dict) else reply[0][1]
            place = entries[-1][0]
            seen += [at] * sum(fields["uuid"] == "GPU-0-0" for _, fields in entries)
        heard.send(seen)


def visible(count: int) -> dict[str, float]:
    """Milliseconds from the call that publishes until another process has the sample: median and p99."""
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        agent, told = Publisher(broker, "h0"), list[float]()
        agent.publish(reports(0), 3000)
        with beside(_watch, server.url, count) as watcher:
            watcher.recv()
            time.sleep(0.2)  # until it sleeps on the stream
            for _ in range(count):
                told.append(time.monotonic())
                agent.publish(reports(0), 3000)
                time.sleep(0.01)
            seen = watcher.recv()
    waits = [1000 * (there - sent) for sent, there in zip(told, seen, strict=False)]
    return {"p50_ms": median(waits), "p99_ms": quantiles(waits, n=100)[98]}


def _borrow(url: str, told: Connection) -> None:
    """Take and give back, twenty times a second, until told to stop; tell the milliseconds that each taking took."""
    waits = []
    with Broker.from_url(url) as broker:
        broker.acquire("1GiB").release()  # connects, and loads the scripts
        while not told.poll(0.05):
            began = time.perf_counter()
            try:
                lease = broker.acquire("1GiB")
            except InsufficientMemory:
                continue  # the agents fell so far behind that no card's word is fresh
            waits.append(1000 * (time.perf_counter() - began))
            lease.release()
    told.send(waits)


def fleet(seconds: float, hosts: int = HOSTS) -> dict[str, float]:
    """What 1,000 hosts cost one server."""
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        agents = [Publisher(broker, f"h{number}") for number in range(hosts)]
        for number, agent in enumerate(agents):
            agent.publish(reports(number), 3000)
        waits = list[float]()
        with beside(_borrow, server.url) as borrower:
            broker.redis.config_resetstat()
            before, began = dict[str, Any](broker.redis.info("cpu")), time.monotonic()
            for number in range(int(seconds / INTERVAL_SECONDS * hosts)):
                due = began + number * INTERVAL_SECONDS / hosts
                time.sleep(max(0.0, due - time.monotonic()))
                sent = time.perf_counter()
                agents[number % hosts].publish(reports(number % hosts, 40 + number % 20), 3000)
                waits.append(1000 * (time.perf_counter() - sent))
            lasted, after = time.monotonic() - began, dict[str, Any](broker.redis.info("cpu"))
            told: Any = broker.redis.info("commandstats")
            borrower.send("enough")
            borrowed = borrower.recv()
    used = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    return {
        "samples_per_second": len(waits) * CARDS / lasted,
        "server_core_percent": 100 * used / lasted,
        "script_mean_us": float(told["cmdstat_evalsha"]["usec_per_call"]),
        "publish_p99_ms": quantiles(waits, n=100)[98],
        "acquire_p50_ms": median(borrowed),
        "acquire_p99_ms": quantiles(borrowed, n=100)[98],
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


def _live_a_day(url: str, count: int, heard: Connection) -> None:
    with Broker.from_url(url) as broker:
        sampler, own, began = Sampler(broker, "d", _Ready()), psutil.Process(), time.monotonic()
        for number in range(count):
            if number == count // 5:
                before, memory = usage(own), broker.redis.info("memory")["used_memory"]
            sampler.sample()
        after, stream = usage(own), broker.keys.metrics("d")
        heard.send({
            "samples": count, "seconds": time.monotonic() - began, "agent_growth_kib": 1024 * (after[1] - before[1]),
            "descriptors_growth": after[2] - before[2],
            "server_growth_kib": (broker.redis.info("memory")["used_memory"] - memory) / 1024,
            "stream_entries_per_card": broker.redis.xlen(stream) / CARDS,
            "stream_kib": (broker.redis.memory_usage(stream, samples=0) or 0) / 1024,
            "journal_entries": broker.redis.xlen(broker.keys.events),
        })  # fmt: skip


def day(count: int) -> dict[str, float]:
    """What has grown after so many samples."""
    with EmbeddedServer() as server, beside(_live_a_day, server.url, count) as one:
        told: dict[str, float] = one.recv()
    return told


def judged(told: dict[str, Any]) -> list[Seen]:
    """Every figure beside what is aimed at."""
    cost_of, fresh, fleet_, day_ = told["cost"], told["visible"], told["fleet"], told["day"]
    own, others = cost_of[AGENT], [cost_of[name] for name in cost_of if name not in (AGENT, READER)]
    both = {key: own[key] + cost_of[READER][key] for key in ("cpu_percent", "rss_mib")}
    samples, pace = f"{day_['samples']:,} samples", PACE_LEAST * HOSTS * CARDS / INTERVAL_SECONDS
    limits = Thresholds.parse(plans.effective({}, None))
    stream_most = limits.history_size + NODE / CARDS
    return [
        ("the agent, % of a core", own["cpu_percent"], ("at most", CPU_MOST)),
        ("the agent, MiB resident", own["rss_mib"], ("at most", RSS_MOST_MIB)),
        *(
            (f"with its reader, {unit}, beside the leanest other", both[key], ("at most", min(o[key] for o in others)))
            for key, unit in (("cpu_percent", "% of a core"), ("rss_mib", "MiB"))
        ),
        ("sample to visible, ms, p50", fresh["p50_ms"], None),
        ("sample to visible, ms, p99", fresh["p99_ms"], ("at most", VISIBLE_MOST_MS)),
        (f"{HOSTS:,} hosts: samples a second", fleet_["samples_per_second"], ("at least", pace)),
        (f"{HOSTS:,} hosts: the server, % of a core", fleet_["server_core_percent"], None),
        (f"{HOSTS:,} hosts: server time of a publish, µs", fleet_["script_mean_us"], None),
        (f"{HOSTS:,} hosts: publish, ms, p99", fleet_["publish_p99_ms"], None),
        (f"{HOSTS:,} hosts: acquire meanwhile, ms, p50", fleet_["acquire_p50_ms"], None),
        (f"{HOSTS:,} hosts: acquire meanwhile, ms, p99", fleet_["acquire_p99_ms"], None),
        (f"{HOSTS:,} hosts: their streams, as after the {samples}, MiB", day_["stream_kib"] / 1024 * HOSTS, None),
        (f"{samples}: seconds that they took", day_["seconds"], None),
        ("growth of the agent, KiB", day_["agent_growth_kib"], ("at most", GROWTH_MOST_KIB)),
        ("growth of its descriptors", day_["descriptors_growth"], ("at most", 0)),
        ("growth of the server, KiB", day_["server_growth_kib"], ("at most", GROWTH_MOST_KIB)),
        ("entries a card in the stream", day_["stream_entries_per_card"], ("at most", stream_most)),
        ("entries in the journal", day_["journal_entries"], ("at most", limits.events_max + NODE)),
    ]  # fmt: skip


def found(told: dict[str, Any]) -> frame.Found:
    """All of it as tables, goals and raw figures."""
    keys = {
        "cpu_percent": "% of a core",
        "rss_mib": "MiB resident",
        "growth_mib": "MiB grown",
        "descriptors": "descriptors",
    }
    programs: list[list[frame.Cell]] = [[name, *(one[key] for key in keys)] for name, one in told["cost"].items()]
    seen = judged(told)
    return frame.Found(
        "agent", "An agent, beside other collectors; and a thousand of them", __doc__ or "",
        [
            frame.Table(
                f"{CARDS} cards, read every {INTERVAL_SECONDS:g} s", ["program", *keys.values()], programs,
                "Resident memory of two processes, added up, counts what they share twice.",
            ),
            frame.Table("Figures", ["figure", "seen"], [[name, value] for name, value, _ in seen]),
        ],
        [
            frame.Goal(name, value, aim[1] if aim[0] == "at most" else None, aim[1] if aim[0] == "at least" else None)
            for name, value, aim in seen if aim is not None
        ],
        told,
    )  # fmt: skip


def draw(told: frame.Found, figure: Figure) -> None:
    """Processor time and memory of all programs, ours one upon the other."""
    cost_of = told.raw["cost"]
    others = [name for name in cost_of if name not in (AGENT, READER)]
    for chart, (key, words) in zip(
        figure.subplots(1, 2), (("cpu_percent", "% of a core"), ("rss_mib", "MiB resident")), strict=True
    ):
        own = [cost_of[AGENT][key], cost_of[READER][key]]
        chart.bar(["gpubroker"], own[:1], label="agent", color="#4878a8")
        chart.bar(["gpubroker"], own[1:], bottom=own[:1], label="its reader of NVML", color="#a8c4de")
        chart.bar(others, [cost_of[name][key] for name in others], color="#b0b0b0")
        chart.set(title=f"{words}: {CARDS} cards, every {INTERVAL_SECONDS:g} s")
        chart.legend(fontsize=8)


@click.command()
@click.option("--seconds", type=float, help="For the cost of an agent [18; long: 60].")
@click.option("--samples", type=int, help="For sample to visible [300; long: 1000].")
@click.option("--fleet-seconds", type=float, help="For 1,000 hosts [10; long: 30].")
@click.option("--day", type=int, help="Samples [2000; long: a whole day's 28800].")
@frame.options
def main(run: frame.Run, **given: Any) -> None:
    """Measure, and print what was seen beside what is aimed at."""
    much = replace(LONG if run.long else QUICK, **{name: value for name, value in given.items() if value is not None})
    steps: dict[str, Callable[[], Any]] = {
        "cost": lambda: cost(much.seconds), "visible": lambda: visible(much.samples),
        "fleet": lambda: fleet(much.fleet_seconds), "day": lambda: day(much.day),
    }  # fmt: skip
    told: dict[str, Any] = {}
    with run.progress() as progress:
        for name in progress.track(steps, description="agent"):
            told[name] = steps[name]()
    run.tell(found(told), draw)


if __name__ == "__main__":
    main()
