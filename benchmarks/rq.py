"""The same jobs through RQ's workers and through ours; what a lease's end and a job's wait take.

Method: one embedded server. *Jobs:* a worker of RQ's and its counterpart of ours, each on its own queue. A batch of
equal jobs is sent to one, then the same batch to the other, in turn, the first of each pair changing places; only one
works at a time. A batch lasts from before its first job is sent until RQ has the last one's result, so what a worker
does between two jobs counts too. Printed are medians of a batch's time by job, and the median ratio of the pairs as
jobs a second, ours by theirs. The jobs are one function in a module that imports nothing of ours; under a lease they
carry a request, with room for it at once. *Imports:* fresh interpreters in turn, medians. *Killed:* from SIGKILL to
the ledger's entry ``released``, for a work-horse and for a whole worker. *Parked:* a job waits for a card that is full;
from the release that makes room to the job's first line.

``python -m benchmarks.rq [--pairs N] [--batch N] [--json]``
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
from statistics import median, quantiles
from typing import Any

import click
from redis import Redis
from rq import Queue

from benchmarks.filled import prepared
from benchmarks.rq_job import develop, tell_time
from broker import Broker
from broker.embedded import EmbeddedServer
from worker_hooks.request import GpuRequest

JOBS_TARGET, IMPORT_TARGET, RELEASE_TARGET, START_TARGET_MS = 0.95, 1.15, 1.0, 50.0
JOB_SECONDS = 0.05
KINDS = {
    "fork": ("rq.worker.Worker", "worker_hooks.GpuWorker"),
    "spawn": ("rq.worker.SpawnWorker", "worker_hooks.GpuSpawnWorker"),
    "simple": ("rq.worker.SimpleWorker", "worker_hooks.GpuSimpleWorker"),
}
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
            queue.empty()
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
@click.option("--pairs", default=5, show_default=True, help="Batches of each kind.")
@click.option("--batch", "count", default=10, show_default=True, help="Jobs in a batch.")
@click.option("--times", default=20, show_default=True, help="Imports, waits; a fourth as many kills.")
@click.option("--json", "as_json", is_flag=True)
def main(pairs: int, count: int, times: int, as_json: bool) -> None:
    """Print the tables."""
    rounds = calibrated()  # before the workers' start is a load
    with (
        EmbeddedServer() as server,
        prepared(server.url) as broker,
        Redis.from_url(server.url, socket_timeout=90) as redis,
    ):
        found = {
            "jobs": compared(server.url, redis, pairs, count, rounds),
            "imports": imports(times),
            "killed": killed(server.url, redis, broker, max(2, times // 4)),
            "parked": parked(server.url, redis, broker, times),
        }
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)


def show(found: dict[str, Any]) -> None:
    """For people."""
    click.echo(f"{'worker, job':<30}{'RQ ms':>9}{'ours ms':>9}{'jobs/s ratio':>14}{'target':>9}")
    for label, row in found["jobs"].items():
        target = f"≥ {JOBS_TARGET}" if row["judged"] else ""
        click.echo(f"{label:<30}{row['theirs_ms']:>9.2f}{row['ours_ms']:>9.2f}{row['ratio']:>14.3f}{target:>9}")
    click.echo()
    bare = found["imports"]["rq"]
    for name, seconds in found["imports"].items():
        target = f"  (target ≤ {IMPORT_TARGET})" if name == "worker_hooks" else ""
        click.echo(f"import {name:<23}{seconds * 1000:>9.1f} ms{seconds / bare:>9.2f} × rq{target}")
    for victim, seconds in found["killed"].items():
        click.echo(f"{victim + ' killed, lease back':<30}{median(seconds):>9.3f} s   (target ≤ {RELEASE_TARGET:g} s)")
    one = found["parked"]
    click.echo(
        f"{'room came, job starts':<30}{one['p50_ms']:>9.1f} ms, p99 {one['p99_ms']:.1f}"
        f"   (target ≤ {START_TARGET_MS:g} ms median)"
    )


if __name__ == "__main__":
    main()
