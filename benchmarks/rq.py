"""The same jobs through RQ's plain ``Worker`` and through ``GpuWorker``.

Method: one embedded server and one worker process of each kind, each on its own queue. A batch of equal jobs is sent to
one worker, then the same batch to the other, in turn, the first of each pair changing places; only one works at a time.
A batch lasts from before its first job is sent until RQ has the last one's result, so what a worker does between two
jobs counts too. Printed are medians of a batch's time by job, and the medians of the pairs' differences and ratios. The
jobs are one function in a module that imports nothing of ours; those for ``GpuWorker`` carry a request and run under a
lease, with room for it at once.

``python -m benchmarks.rq [--pairs N] [--batch N] [--json]``
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import click
from redis import Redis
from rq import Queue

from benchmarks.roundtrip import prepared
from benchmarks.rq_job import develop
from broker.embedded import EmbeddedServer
from worker_hooks.request import GpuRequest

TARGET = 1.05
JOB_SECONDS = 0.05
KINDS = {"plain": "rq.worker.Worker", "gpu": "worker_hooks.GpuWorker"}


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
def workers(url: str) -> Iterator[None]:
    """One worker of each kind, on the queue of its name."""
    env = {**os.environ, "GPUBROKER_REDIS_URL": url, "GPUBROKER_HOST": "a"}
    started = [
        subprocess.Popen([sys.executable, "-m", "rq.cli", "worker", "-q", "-u", url, "-w", kind, name], env=env)
        for name, kind in KINDS.items()
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def batch(queue: Queue, count: int, rounds: int) -> float:
    """Seconds by job of a batch."""
    meta = {"gpu": GpuRequest.checked("2GiB").as_meta()} if queue.name == "gpu" else None
    start = time.perf_counter()
    jobs = [queue.enqueue(develop, rounds, meta=meta) for _ in range(count)]
    result = jobs[-1].latest_result(timeout=120)
    seconds = (time.perf_counter() - start) / count
    if result is None or any(job.get_status() != "finished" for job in jobs):
        raise click.ClickException(f"jobs of {queue.name} did not finish")
    return seconds


def measure(queues: dict[str, Queue], pairs: int, count: int, rounds: int) -> dict[str, float]:
    """Median milliseconds by job of each kind, and the median ratio of a pair."""
    for queue in queues.values():
        batch(queue, count, rounds)  # warms both
    seconds: dict[str, list[float]] = {"plain": [], "gpu": []}
    for turn in range(pairs):
        for name in sorted(queues, reverse=turn % 2 == 0):
            seconds[name].append(batch(queues[name], count, rounds))
    ratios = [gpu / plain for plain, gpu in zip(seconds["plain"], seconds["gpu"], strict=True)]
    return {
        "plain_ms": median(seconds["plain"]) * 1000,
        "gpu_ms": median(seconds["gpu"]) * 1000,
        "ratio": median(ratios),
        "extra_ms": median(g - p for p, g in zip(seconds["plain"], seconds["gpu"], strict=True)) * 1000,
    }


@click.command()
@click.option("--pairs", default=20, show_default=True, help="Batches of each kind.")
@click.option("--batch", "count", default=10, show_default=True, help="Jobs in a batch.")
@click.option("--json", "as_json", is_flag=True)
def main(pairs: int, count: int, as_json: bool) -> None:
    """Print the table."""
    found: dict[str, Any] = {}
    kinds = (("trivial", 0), (f"{JOB_SECONDS * 1000:.0f} ms", calibrated()))  # before the workers' start is a load
    with EmbeddedServer() as server, prepared(server.url), Redis.from_url(server.url) as redis, workers(server.url):
        queues = {name: Queue(name, connection=redis) for name in KINDS}
        for label, rounds in kinds:
            found[label] = measure(queues, pairs, count, rounds)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{'job':<10}{'rq Worker ms':>14}{'GpuWorker ms':>14}{'extra ms':>10}{'ratio':>8}{'target':>8}")
    for label, row in found.items():
        target = "" if label == "trivial" else f"≤ {TARGET}"
        click.echo(
            f"{label:<10}{row['plain_ms']:>14.2f}{row['gpu_ms']:>14.2f}{row['extra_ms']:>10.2f}{row['ratio']:>8.3f}"
            f"{target:>8}"
        )


if __name__ == "__main__":
    main()
