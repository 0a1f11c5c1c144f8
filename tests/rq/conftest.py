"""RQ workers as processes of their own, and a way to talk with the jobs inside them. Always on the real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.job import Job

from broker import Broker, get_broker
from broker.models import Event
from worker_hooks import decorator, pacing
from worker_hooks.request import GpuRequest

PATIENCE = 30


class Stage:
    """One host ``h1`` and its workers. Jobs speak on the list ``told``, and are spoken to on ``go``."""

    def __init__(self, url: str, broker: Broker) -> None:
        self.broker = broker
        self.redis = Redis.from_url(url, socket_timeout=PATIENCE + 10)
        self.queue = Queue("photos", connection=self.redis)
        self.url = url
        self._workers: list[subprocess.Popen[bytes]] = []

    def worker(
        self, kind: str = "worker_hooks.GpuWorker", *options: str, queues: tuple[str, ...] = ("photos",), **env: str
    ) -> subprocess.Popen[bytes]:
        """Start ``rq worker`` of that class."""
        command = [sys.executable, "-m", "rq.cli", "worker", "-u", self.url, "-w", kind, *options, *queues]
        process = subprocess.Popen(command, env={**os.environ, **env}, start_new_session=True)
        self._workers.append(process)
        return process

    def burst(self, kind: str = "worker_hooks.GpuWorker", *options: str, **env: str) -> None:
        """Work until the queue is empty."""
        assert self.worker(kind, "--burst", *options, **env).wait(PATIENCE) == 0

    def enqueue(self, function: Any, *, retries: int) -> Job:
        """As ``function.delay()``, with retries."""
        meta = {"gpu": GpuRequest.checked("4GiB", ttl=3).as_meta()}
        return self.queue.enqueue(function, meta=meta, retry=Retry(max=retries) if retries else None)

    def parked(self, job: Job) -> None:
        """Wait until the job is parked."""
        ends = time.monotonic() + PATIENCE
        while job.get_status() != "scheduled":
            assert time.monotonic() < ends, "the job was not parked"

    def sitting(self, count: int = 1) -> None:
        """Wait until so many workers sit idle."""
        ends = time.monotonic() + PATIENCE
        while self.broker.redis.zcard(self.broker.keys.seats("photos")) != count:
            assert time.monotonic() < ends, "no worker sat down"

    def hear(self) -> Any:
        """What a job says next."""
        found = self.redis.blpop(["told"], timeout=PATIENCE)
        assert found is not None, "the job said nothing"
        return json.loads(found[1])

    def heard(self) -> int:
        """How many times jobs spoke without being listened to."""
        return self.redis.llen("told")

    def go(self) -> None:
        """Let a job that waits go on."""
        self.redis.rpush("go", "on")

    def event(self, kind: str, nth: int = 1) -> Event:
        """The journal's nth entry of that kind, waiting for it; scripts run meanwhile, as in a pool that is used."""
        seen = 0
        for event in self.broker.follow("0", block_ms=300):
            if event is None:
                self.broker.reap()
            elif event.kind == kind:
                seen += 1
                if seen == nth:
                    return event
        raise AssertionError("the journal never ends")

    def outcome(self, job: Job) -> str:
        """Wait for the job's end: its result, or its traceback."""
        result = job.latest_result(timeout=PATIENCE)
        assert result is not None, "the job did not end"
        return str(result.exc_string if result.exc_string else result.return_value)

    def close(self) -> None:
        for process in self._workers:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.redis.close()


@pytest.fixture
def stage(
    redis_url: str, broker: Broker, cards: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    """Host ``h1`` with one healthy card ``GPU-a`` that lends 5.5 GiB."""
    monkeypatch.setenv("GPUBROKER_REDIS_URL", redis_url)
    monkeypatch.setenv("GPUBROKER_HOST", "h1")
    monkeypatch.setattr(pacing, "_seen", None)
    get_broker.cache_clear()
    decorator._queue_connection.cache_clear()
    cards("GPU-a")
    made = Stage(redis_url, broker)
    yield made
    made.close()
