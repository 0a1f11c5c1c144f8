"""The HTTP face of a pool of 1,000 cards: what a status read takes, and what 200 open event streams cost.

Method: an embedded server, ``gpubroker serve`` as a process of its own, a process that is the agents of all hosts (each
publishes once every three seconds, and each sample has another temperature, so that every card changes), one that
borrows and gives back ten times a second, all on one machine. Reads are made over loopback by one connection at a time
(``http.client``), a hundred a second, the paths in turn; each is timed from the first byte sent to the last received.
Streams are opened by another process, which takes all that comes and counts it; the server's processor time is taken
from ``/proc`` (user and system) over so many seconds, first without streams, then with ``--streams`` of each kind.

``python -m benchmarks.http [--cards N] [--streams N] [--seconds S] [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import psutil

from benchmarks import frame
from benchmarks.filled import CARDS_OF_A_HOST, cards
from broker import Broker
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from broker.units import MIB

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P99_MOST_MS, CORE_MOST = 5.0, 0.5
_INTERVAL_SECONDS = 3.0
_PATHS = {
    "summary": "/api/gpu/status",
    "one card": "/api/gpu/status?gpu=GPU-0-0",
    "all cards": "/api/gpu/status/all",
    "available": "/api/gpu/memory/available",
    "leases": "/api/leases",
    "waiters": "/api/waiters",
    "throttle": "/api/gpu/throttle/status",
}  # fmt: skip
_PACE_SECONDS = 0.01


def agents(url: str, count: int) -> None:
    """All hosts' agents, in turn, for ever."""
    with Broker.from_url(url) as broker:
        hosts = count // CARDS_OF_A_HOST
        pens = [(Publisher(broker, f"host-{number}"), cards(number, CARDS_OF_A_HOST)) for number in range(hosts)]
        beat, due = 0, time.monotonic()
        while True:
            beat += 1
            for pen, reports in pens:
                heat = 40 + beat % 20
                hot = [type(one)(**{**_fields(one), "temperature_c": heat}) for one in reports]
                pen.publish(hot, round(_INTERVAL_SECONDS * 1000))
                due += _INTERVAL_SECONDS / hosts
                time.sleep(max(0.0, due - time.monotonic()))


def _fields(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__dataclass_fields__}


def borrower(url: str) -> None:
    """Ten leases a second come and go, for ever."""
    with Broker.from_url(url) as broker:
        while True:
            lease = broker.acquire(64 * MIB)
            time.sleep(0.05)
            lease.release()
            time.sleep(0.05)


def listener(port: int, path: str, count: int, told: Connection) -> None:
    """So many streams: all that comes is taken. Tells when all are open, and then what came, when asked."""
    asyncio.run(_listen(port, path, count, told))


async def _listen(port: int, path: str, count: int, told: Connection) -> None:
    taken = [0] * count

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while data := await reader.read(1 << 16):
            taken[number] += len(data)

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    while not all(taken):
        await asyncio.sleep(0.05)
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError("a stream ended")
    told.send("open")
    while True:
        await asyncio.to_thread(told.recv)
        if any(task.done() for task in tasks):
            raise RuntimeError("a stream ended")
        told.send(sum(taken))


@contextmanager
def served(url: str) -> Iterator[tuple[int, psutil.Process]]:
    """``gpubroker serve``: its port and its process."""
    command = [sys.executable, "-m", "broker.cli", "serve", "--port", "0", "--redis-url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2])
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def reads(port: int, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of each kind of read: median, p99, most; and the answer's bytes."""
    times: dict[str, list[float]] = {name: [] for name in _PATHS}
    sizes: dict[str, int] = {}
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    ends, due = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < ends:
        for name, path in _PATHS.items():
            began = time.perf_counter()
            asking.request("GET", path)
            answer = asking.getresponse()
            body = answer.read()
            times[name].append((time.perf_counter() - began) * 1000)
            assert answer.status == 200, (path, answer.status)
            sizes[name] = len(body)
            due = max(due + _PACE_SECONDS, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
    asking.close()
    return {name: {**_summary(found), "bytes": sizes[name]} for name, found in times.items()}


def _summary(found: list[float]) -> dict[str, float]:
    found = sorted(found)
    return {
        "count": len(found), "p50_ms": round(median(found), 2), "p99_ms": round(found[int(len(found) * 0.99)], 2),
        "most_ms": round(found[-1], 2),
    }  # fmt: skip


def streams(port: int, process: psutil.Process, path: str, count: int, seconds: float) -> dict[str, float]:
    """What so many open streams of one kind cost the server: shares of a core, and bytes a second to all of them."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=listener, args=(port, path, count, theirs), daemon=True)
    child.start()
    theirs.close()  # so that its end is noticed
    try:
        assert ours.poll(60), "the streams did not open"
        assert ours.recv() == "open"
        time.sleep(2)
        ours.send("count")
        before, cpu, began = ours.recv(), _cpu(process), time.monotonic()
        time.sleep(seconds)
        ours.send("count")
        after, used, took = ours.recv(), _cpu(process) - cpu, time.monotonic() - began
    finally:
        child.kill()
        child.join()
    return {
        "streams": count, "core": round(used / took, 3), "bytes_a_second": round((after - before) / took),
        "rss_mb": round(process.memory_info().rss / 1e6, 1),
    }  # fmt: skip


def _cpu(process: psutil.Process) -> float:
    told = process.cpu_times()
    return float(told.user + told.system)


def _idle(process: psutil.Process, seconds: float) -> float:
    before, began = _cpu(process), time.monotonic()
    time.sleep(seconds)
    return round((_cpu(process) - before) / (time.monotonic() - began), 3)


@click.command()
@click.option("--cards", "count", type=int, default=1000, show_default=True)
@click.option("--streams", "open_streams", type=int, default=200, show_default=True)
@click.option("--seconds", type=float, help="For each figure [5; long: 20].")
@frame.options
def main(run: frame.Run, count: int, open_streams: int, seconds: float | None) -> None:
    """Status reads, and open event streams, at so many cards."""
    seconds = seconds or (20.0 if run.long else 5.0)
    context = get_context("spawn")
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        helpers = [context.Process(target=agents, args=(server.url, count), daemon=True),
                   context.Process(target=borrower, args=(server.url,), daemon=True)]  # fmt: skip
        broker = stack.enter_context(Broker.from_url(server.url))
        helpers[0].start()
        while len(broker.gpus()) < count // CARDS_OF_A_HOST * CARDS_OF_A_HOST:
            time.sleep(0.1)
        for number in range(100):
            broker.acquire(64 * MIB, lease_id=f"lease-{number}", ttl=86_400)
        helpers[1].start()
        for helper in helpers:
            stack.callback(helper.kill)
        port, process = stack.enter_context(served(server.url))
        told: dict[str, Any] = {"cards": count, "idle_core": _idle(process, min(seconds, 5))}
        reads(port, 1)  # warms the caches on both sides
        told["reads"] = reads(port, seconds)
        told["streams"] = {
            name: streams(port, process, path, open_streams, seconds)
            for name, path in (("live", "/api/live"), ("events", "/api/events"))
        }
    run.tell(found(told), draw)


def found(told: dict[str, Any]) -> frame.Found:
    """All of it as tables, goals and raw figures."""
    count, opened = told["cards"], told["streams"]
    reads: list[list[frame.Cell]] = [
        [name, row["count"], row["p50_ms"], row["p99_ms"], row["most_ms"], row["bytes"]]
        for name, row in told["reads"].items()
    ]
    streams: list[list[frame.Cell]] = [
        [f"`{name}`", row["streams"], 100 * row["core"], row["bytes_a_second"] / 1e6, row["rss_mb"]]
        for name, row in opened.items()
    ]
    slowest = max(told["reads"], key=lambda name: told["reads"][name]["p99_ms"])
    return frame.Found(
        "http", "The pool over HTTP", __doc__ or "",
        [
            frame.Table(
                f"Status reads, {count:,} cards", ["read", "count", "p50 ms", "p99 ms", "most ms", "bytes"], reads,
                f"Nobody asking, the server takes {100 * told['idle_core']:.1f} % of a core.",
            ),
            frame.Table(
                "Open event streams", ["stream", "open", "% of a core", "MB/s to all", "RSS MB"], streams,
            ),
        ],
        [
            frame.Goal(f"the slowest status read ({slowest}), p99, ms", told["reads"][slowest]["p99_ms"], P99_MOST_MS),
            *(frame.Goal(f"{row['streams']} streams `{name}`, of a core", row["core"], CORE_MOST)
              for name, row in opened.items()),
        ],
        told,
    )  # fmt: skip


def draw(told: frame.Found, figure: Figure) -> None:
    """Each kind of read, median and p99; and the streams' share of a core."""
    left, right = figure.subplots(1, 2, width_ratios=[2.5, 1])
    reads = told.raw["reads"]
    names = list(reads)
    left.barh(names, [reads[name]["p99_ms"] for name in names], color="#a8c4de", label="p99")
    left.barh(names, [reads[name]["p50_ms"] for name in names], color="#4878a8", label="median")
    left.axvline(P99_MOST_MS, color="#c44e52", label="aim for the p99")
    left.set(xlabel="ms", title=f"status reads, {told.raw['cards']:,} cards")
    left.legend(fontsize=8)
    streams = told.raw["streams"]
    right.bar(list(streams), [row["core"] for row in streams.values()], color="#4878a8")
    right.axhline(CORE_MOST, color="#c44e52")
    right.set(title="open streams: share of a core")


if __name__ == "__main__":
    main()
