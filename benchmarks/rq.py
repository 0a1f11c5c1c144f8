"""The same jobs through RQ's workers and through ours; what a lease's end and a job's wait take.

Method: one embedded server. *Jobs:* a worker of RQ's and its counterpart of ours, each on its own queue. A batch of
equal jobs is sent to one, then the same batch to the other, in turn, the first of each pair changing places; only one
works at a time. A batch lasts from before its first job is sent until RQ has the last one's result, so what a worker
does between two jobs counts too. Printed are medians of a batch's time by job, and the median ratio of the pairs as
jobs a second, ours by theirs. The jobs are one function in a module that imports nothing of ours; under a lease they
carry a request, with room for it at once. *Imports:* fresh interpreters in turn, medians. *Killed:* from SIGKILL to
the ledger's entry ``released``, for a work-horse and for a whole worker. *Parked:* a job waits for a card that is full;
from the release that makes room to the job's first line.

``python -m benchmarks.rq [--pairs N] [--batch N] [--times N] [--long] [--json] [--out DIR]``
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click
from redis import Redis
from rq import Queue

from benchmarks import frame
from benchmarks.filled import prepared
from benchmarks.rq_job import develop, tell_time
from broker import Broker
from broker.embedded import EmbeddedServer
from worker_hooks.request import GpuRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JOBS_TARGET, IMPORT_TARGET, RELEASE_TARGET, START_TARGET_MS = 0.95, 1.15, 1.0, 50.0
JOB_SECONDS = 0.05
KINDS = {
    "fork": ("rq.worker.Worker", "worker_hooks.GpuWorker"),
    "spawn": ("rq.worker.SpawnWorker", "worker_hooks.GpuSpawnWorker"),
    "simple": ("rq.worker.SimpleWorker", "worker_hooks.GpuSimpleWorker"),
}


@dataclass(frozen=True, slots=True)
class Much:
    """How much of everything."""

    pairs: int
    batch: int
    times: int


QUICK, LONG = Much(3, 4, 8), Much(15, 10, 40)
META = {"gpu": GpuRequest.checked("2GiB").as_meta()}


def calibrated() -> int:
    """Rounds of work that last about ``JOB_SECONDS`` on this machine."""
    rounds = 20_000
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        develop(rounds)
        seconds.append(time.perf_counter() - start)
    return round(rounds * JOB_SECONDS / median(seconds))


@contextmanager
def worker(url: str, kind: str, queue: str) -> Iterator[subprocess.Popen[bytes]]:
    """One worker of a kind, on a queue, on host ``a``."""
    env = {**os.environ, "GPUBROKER_REDIS_URL": url, "GPUBROKER_HOST": "a"}
    command = [sys.executable, "-m", "rq.cli", "worker", "-q", "-u", url, "-w", kind, queue]
    process = subprocess.Popen(command, env=env, stdout=2)  # what a worker logs is no figure
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def batch(queue: Queue, count: int, rounds: int, meta: dict[str, Any] | None) -> float:
    """Seconds by job of a batch."""
    start = time.perf_counter()
    jobs = [queue.enqueue(develop, rounds, meta=meta and dict(meta)) for _ in range(count)]
    result = jobs[-1].latest_result(timeout=120)
    seconds = (time.perf_counter() - start) / count
    if result is None or any(job.get_status() != "finished" for job in jobs):
        raise click.ClickException(f"jobs of {queue.name} did not finish")
    return seconds


def compared(url: str, redis: Redis, pairs: int, count: int, rounds: int) -> dict[str, Any]:
    """For each kind of worker and of job: ms by job of theirs and of ours, and the ratio in jobs a second."""
    loads = {"plain": (rounds, None), "50 ms under a lease": (rounds, META), "trivial under a lease": (0, META)}
    found: dict[str, Any] = {}
    for kind, (theirs, ours) in KINDS.items():
        queues = {name: Queue(f"{kind}-{name}", connection=redis) for name in ("theirs", "ours")}
        with worker(url, theirs, queues["theirs"].name), worker(url, ours, queues["ours"].name):
            for label, (work, meta) in loads.items():
                seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
                for turn in range(-1, pairs):  # the first warms both
                    for name in sorted(queues, reverse=turn % 2 == 0):
                        took = batch(queues[name], count, work, meta if name == "ours" else None)
                        if turn >= 0:
                            seconds[name].append(took)
                ratios = [t / o for t, o in zip(seconds["theirs"], seconds["ours"], strict=True)]
                found[f"{kind}, {label}"] = {
                    "theirs_ms": median(seconds["theirs"]) * 1000, "ours_ms": median(seconds["ours"]) * 1000,
                    "ratio": median(ratios), "judged": not label.startswith("trivial"),
                }  # fmt: skip
    return found


def imports(times: int) -> dict[str, float]:
    """Median seconds of fresh interpreters that import; the bare interpreter's own time is taken off."""
    what = {
        "nothing": "pass",
        "rq": "import rq",
        "worker_hooks": "import rq, worker_hooks",
        "with @gpu_job": "import rq, worker_hooks; worker_hooks.gpu_job",
    }
    seconds: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(times):
        for name, code in what.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds[name].append(time.perf_counter() - start)
    bare = median(seconds["nothing"])
    return {name: median(values) - bare for name, values in seconds.items() if name != "nothing"}


def since(broker: Broker, kind: str, after: str, act: Callable[[], object]) -> float:
    """Seconds from an act to the journal's next entry of a kind."""
    start = time.perf_counter()
    act()
    for event in broker.follow(after, block_ms=2000):
        if event is not None and event.kind == kind:
            return time.perf_counter() - start
    raise AssertionError("the journal never ends")


def killed(url: str, redis: Redis, broker: Broker, times: int) -> dict[str, list[float]]:
    """Seconds from SIGKILL of a horse, or of its worker, until the job's lease is back."""
    found: dict[str, list[float]] = {"work-horse": [], "worker": []}
    queue = Queue("killed", connection=redis)
    for victim, seconds in found.items():
        for _ in range(times):
            with worker(url, "worker_hooks.GpuWorker", queue.name) as process:
                queue.enqueue(tell_time, url, 60.0, meta=dict(META))
                told = redis.blpop(["told"], timeout=60)
                assert told is not None
                pid = int(json.loads(told[1])["pid"]) if victim == "work-horse" else process.pid
                after = broker.last_event_id()
                seconds.append(since(broker, "released", after, lambda pid=pid: os.kill(pid, signal.SIGKILL)))  # type: ignore[misc]
            queue.empty()  # type: ignore[no-untyped-call]
    return found


def parked(url: str, redis: Redis, broker: Broker, times: int) -> dict[str, float]:
    """Milliseconds from the release that made room to the first line of a job that waited for it."""
    queue, seconds = Queue("parked", connection=redis), []
    with worker(url, "worker_hooks.GpuWorker", queue.name):
        for _ in range(times):
            held = [
                broker.acquire("5GiB", gpu=f"GPU-{card}", ttl=120, wait=10) for card in ("a-0", "a-1", "b-0", "b-1")
            ]
            job = queue.enqueue(tell_time, url, 0.0, meta={"gpu": GpuRequest.checked("5GiB").as_meta()})
            while job.get_status() != "scheduled" or not redis.zcard(broker.keys.seats(queue.name)):
                time.sleep(0.01)
            start = time.time()
            held[0].release()
            told = redis.blpop(["told"], timeout=60)
            assert told is not None
            seconds.append(json.loads(told[1])["at"] - start)
            assert job.latest_result(timeout=60) is not None
            for lease in held[1:]:
                lease.release()
    return {"p50_ms": median(seconds) * 1000, "p99_ms": quantiles(seconds, n=100)[-1] * 1000, "times": times}


@click.command()
@click.option("--pairs", type=int, help="Batches of each kind [3; long: 15].")
@click.option("--batch", type=int, help="Jobs in a batch [4; long: 10].")
@click.option("--times", type=int, help="Imports, waits; a fourth as many kills [8; long: 40].")
@frame.options
def main(run: frame.Run, **given: int | None) -> None:
    """Measure, and print what was seen beside what is aimed at."""
    much = replace(LONG if run.long else QUICK, **{name: value for name, value in given.items() if value is not None})
    rounds = calibrated()  # before the workers' start is a load
    told: dict[str, Any] = {}
    with (
        EmbeddedServer() as server,
        prepared(server.url) as broker,
        Redis.from_url(server.url, socket_timeout=90) as redis,
        run.progress() as progress,
    ):
        url, times = server.url, much.times
        steps: dict[str, Callable[[], Any]] = {
            "jobs": lambda: compared(url, redis, much.pairs, much.batch, rounds), "imports": lambda: imports(times),
            "killed": lambda: killed(url, redis, broker, max(2, times // 4)),
            "parked": lambda: parked(url, redis, broker, times),
        }  # fmt: skip
        for name in progress.track(steps, description="rq"):
            told[name] = steps[name]()
    run.tell(found(told), draw)


def found(told: dict[str, Any]) -> frame.Found:
    """All of it as tables, goals and raw figures."""
    jobs, bare, parked_ = told["jobs"], told["imports"]["rq"], told["parked"]
    lost = {victim: median(seconds) for victim, seconds in told["killed"].items()}
    rows: list[list[frame.Cell]] = [
        [name, row["theirs_ms"], row["ours_ms"], row["ratio"]] for name, row in jobs.items()
    ]
    seen: list[list[frame.Cell]] = [
        *([f"import {name}, ms", 1000 * seconds] for name, seconds in told["imports"].items()),
        *([f"{victim} killed: its lease back, ms", 1000 * seconds] for victim, seconds in lost.items()),
        ["room came: the job that waited starts, ms, median", parked_["p50_ms"]],
        ["room came: the job that waited starts, ms, p99", parked_["p99_ms"]],
    ]
    return frame.Found(
        "rq", "Jobs under a lease, beside plain RQ", __doc__ or "",
        [
            frame.Table(
                "A job, with all that a worker does between two",
                ["worker, job", "RQ ms", "ours ms", "jobs/s, ours by RQ's"], rows,
                f"A job of {1000 * JOB_SECONDS:.0f} ms keeps one core busy; a trivial one does nothing.",
            ),
            frame.Table("Beside jobs", ["what", "seen"], seen),
        ],
        [
            *(frame.Goal(f"{name}: jobs/s, ours by RQ's", row["ratio"], least=JOBS_TARGET)
              for name, row in jobs.items() if row["judged"]),
            frame.Goal("import worker_hooks, × import rq", told["imports"]["worker_hooks"] / bare, IMPORT_TARGET),
            *(frame.Goal(f"{victim} killed: seconds until its lease is back", seconds, RELEASE_TARGET)
              for victim, seconds in lost.items()),
            frame.Goal("room came: ms until the job that waited starts", parked_["p50_ms"], START_TARGET_MS),
        ],
        told,
    )  # fmt: skip


def draw(told: frame.Found, figure: Figure) -> None:
    """Jobs a second, ours by theirs, for each kind of worker and job."""
    chart, jobs = figure.subplots(), told.raw["jobs"]
    names = list(reversed(jobs))
    colours = ["#4878a8" if jobs[name]["judged"] else "#b0b0b0" for name in names]
    bars = chart.barh(names, [jobs[name]["ratio"] for name in names], color=colours)
    chart.bar_label(bars, fmt=" {:.2f}", fontsize=8)
    chart.axvline(JOBS_TARGET, color="#c44e52", label=f"aim: {JOBS_TARGET:g} (blue ones)")
    chart.axvline(1.0, color="black", linewidth=0.8, label="as many as plain RQ")
    chart.set(title="jobs a second, ours by RQ's own worker")
    chart.legend(fontsize=8, loc="lower right")


if __name__ == "__main__":
    main()
