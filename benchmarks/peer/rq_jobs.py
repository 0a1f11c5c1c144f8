"""RQ's jobs: plain, under a peer's lock, under RQ's own ``RateLimit``, and under gpubroker's leases.

Bursts are run by a ``SimpleWorker`` in this process (ours: ``GpuSimpleWorker``): no fork, so what is seen is the cost
of the limit. Jobs that hold are run by two workers that fork, RQ's own or ours, as they are run in production.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from redis import Redis
from rq import Queue, SimpleWorker
from rq.rate_limit import RateLimit
from rq.worker import BaseWorker

from benchmarks.peer import job, ours

#: RQ's own limit, or a lease on the whole of the pool's only card: one job at a time.
LIMIT, LEASE, DECORATOR, PLAIN = "limit", "lease", "decorator", "plain"


class RqJobs:
    """One way to run RQ's jobs one at a time. ``how`` is one of the words above, or a peer's module."""

    def __init__(self, url: str, how: str) -> None:
        """A queue of its own, and a pool of its own if it needs one."""
        self.url, self.how, self.pool = url, how, f"jobs-{how}"
        self.redis: Any = Redis.from_url(url, socket_timeout=90)
        if how in (LEASE, DECORATOR):
            os.environ |= {"GPUBROKER_REDIS_URL": url, "GPUBROKER_POOL": self.pool, "GPUBROKER_HOST": ours.HOST}
            ours.stock(url, self.pool, [f"GPU-{how}"])
        self._quick = Queue(f"quick-{how}", connection=self.redis)
        self._slow = Queue(f"slow-{how}", connection=self.redis)
        self._workers: list[subprocess.Popen[bytes]] = []

    def burst(self, count: int) -> float:
        """Seconds by job of a batch of jobs that do nothing, from the end of the first to the end of the last: what a
        worker's start takes is no job's.
        """
        sent = [self._send(self._quick, *self._work()) for _ in range(count + 1)]
        self._worker().work(burst=True, logging_level="ERROR")
        if any(one.get_status() != "finished" for one in sent):
            raise RuntimeError("not all jobs finished")
        for one in sent:
            one.refresh()
        ends = sorted(one.ended_at.timestamp() for one in sent)
        return float(ends[-1] - ends[0]) / count

    def each(self, count: int) -> list[float]:
        """Microseconds of each of so many jobs that do nothing, sent and waited for one after the other: by a worker
        that forks."""
        spans = []
        for _ in range(count):
            begun = time.perf_counter()
            if self._send(self._slow, job.nothing).latest_result(timeout=60) is None:
                raise RuntimeError("a job did not finish")
            spans.append((time.perf_counter() - begun) * 1e6)
        return spans

    def start(self) -> None:
        """Two workers, for jobs that hold."""
        kind = "worker_hooks.GpuWorker" if self.how == LEASE else "rq.worker.Worker"
        command = [sys.executable, "-m", "rq.cli", "worker", "-q", "-u", self.url, "-w", kind, self._slow.name]
        self._workers = [subprocess.Popen(command, stdout=2) for _ in range(2)]

    def close(self) -> None:
        """End the workers. A horse of RQ's outlives its worker; it ends with the server that it waits for."""
        for worker in self._workers:
            worker.kill()

    def submit(self, key: str, tag: str) -> None:
        """Send a job that holds."""
        self._send(self._slow, job.hold, self.url, key, tag)

    def _work(self) -> tuple[Any, ...]:
        if self.how in (PLAIN, LIMIT, LEASE):
            return (job.nothing,)
        if self.how == DECORATOR:
            from benchmarks.peer import decorated

            return (decorated.nothing,)
        return job.under, self.how, self.url, "alone"

    def _send(self, queue: Queue, *work: Any) -> Any:
        options: dict[str, Any] = {}
        if self.how == LIMIT:
            options["rate_limit"] = RateLimit(key=queue.name, concurrency=1)
        elif self.how == LEASE:
            from worker_hooks.request import GpuRequest

            options["meta"] = {"gpu": GpuRequest.checked(ours.ALL).as_meta()}
        return queue.enqueue(*work, **options)

    def _worker(self) -> BaseWorker:
        kind: type[BaseWorker] = SimpleWorker
        if self.how == LEASE:
            from worker_hooks import GpuSimpleWorker

            kind = GpuSimpleWorker
        return kind([self._quick], connection=self.redis)


opened = RqJobs
