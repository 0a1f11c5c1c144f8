"""What the doctor finds on RQ's side: jobs that borrow and nobody who starts them, workers, their keepers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest
from click.testing import Result
from redis import Redis
from rq import Queue

from broker import Broker
from broker.embedded import EmbeddedServer
from worker_hooks.parking import Lot
from worker_hooks.request import GpuRequest

Cli = Callable[..., Result]
Cards = Callable[..., None]


@pytest.fixture
def queue(broker: Broker, cards: Cards) -> Iterator[Queue]:
    """The queue `photos` beside a pool with one card."""
    cards("GPU-a")
    with Redis.from_url(broker.url) as connection:
        yield Queue("photos", connection=connection)


def borrowing(queue: Queue, count: int = 1) -> None:
    """Jobs that borrow; nobody runs them."""
    for _ in range(count):
        queue.enqueue("nothing.at_all", meta={"gpu": GpuRequest.checked("4GiB").as_meta()})


def findings(result: Result) -> dict[str, tuple[str, str]]:
    """How bad, and in which words, by what it is about."""
    assert result.stdout, result.output
    return {one["about"]: (one["severity"], one["says"]) for one in json.loads(result.stdout)["findings"]}


def plain_worker(queue: Queue, name: str = "plain", version: str = "3.0.0") -> None:
    """A worker as RQ writes it down."""
    queue.connection.sadd("rq:workers", f"rq:worker:{name}")
    told = {"hostname": "elsewhere", "pid": 1, "version": version, "queues": "photos,other"}
    queue.connection.hset(f"rq:worker:{name}", mapping=told)


def test_an_rq_without_jobs_is_fine(cli: Cli, queue: Queue) -> None:
    told = findings(cli("doctor", "--json"))
    assert told["rq"] == ("fine", "its jobs are on the ledger's server")
    assert told["rq queues"] == ("fine", "0 workers; no jobs that borrow are queued or parked")


def test_jobs_that_borrow_and_no_worker_at_all_are_wrong(cli: Cli, queue: Queue) -> None:
    borrowing(queue, 2)
    queue.enqueue("nothing.else")
    result = cli("doctor", "--json")
    assert result.exit_code == 1
    assert findings(result)["queue photos"] == ("wrong", "jobs that borrow wait (2 queued), and no worker serves it")
    assert "`gpubroker worker --queue photos`" in cli("doctor").stdout


def test_plain_workers_only_are_a_warning(cli: Cli, queue: Queue) -> None:
    borrowing(queue)
    plain_worker(queue)
    severity, says = findings(cli("doctor", "--json"))["queue photos"]
    assert (severity, "plain RQ workers only (1)" in says) == ("warning", True)


def test_parked_jobs_without_a_worker_of_ours_are_wrong(cli: Cli, queue: Queue) -> None:
    job = queue.enqueue("nothing.at_all", meta={"gpu": GpuRequest.checked("4GiB").as_meta()})
    queue.connection.lmove(queue.key, queue.intermediate_queue_key)
    assert Lot(queue).park(job, f"{job.id}.1", 60_000)
    plain_worker(queue)
    severity, says = findings(cli("doctor", "--json"))["queue photos"]
    assert (severity, "1 parked" in says) == ("wrong", True)


def test_a_crew_that_lives_is_enough(cli: Cli, queue: Queue, broker: Broker) -> None:
    borrowing(queue)
    broker.call("attend", "w1", "h1", "photos", "away", 15_000, 120_000)
    assert "queue photos" not in findings(cli("doctor", "--json"))


def test_jobs_that_borrow_nothing_need_no_worker_of_ours(cli: Cli, queue: Queue) -> None:
    queue.enqueue("nothing.else", meta={"colour": "gpu blue"})
    assert "queue photos" not in findings(cli("doctor", "--json"))


def test_a_worker_of_an_rq_that_is_too_old_is_wrong(cli: Cli, queue: Queue) -> None:
    plain_worker(queue, "old", "2.6.0")
    plain_worker(queue, "new", "3.0.0")
    told = findings(cli("doctor", "--json"))
    assert told["worker old"] == ("wrong", "runs RQ 2.6.0, on which GpuWorker does not work")
    assert "worker new" not in told


def test_another_server_of_rqs_is_looked_at_too(cli: Cli, queue: Queue) -> None:
    with EmbeddedServer() as other, Redis.from_url(other.url) as connection:
        connection.config_set("maxmemory-policy", "allkeys-lru")
        borrowing(Queue("videos", connection=connection))
        told = findings(cli("doctor", "--json", "--rq-url", other.url))
    assert told["RQ's eviction"][0] == "warning"
    assert "throw jobs away" in told["RQ's eviction"][1]
    assert "queue videos" in told


def test_an_rq_that_is_away_is_wrong(cli: Cli, queue: Queue) -> None:
    severity, says = findings(cli("doctor", "--json", "--rq-url", "redis://127.0.0.1:1/0"))["rq"]
    assert (severity, "cannot be reached" in says) == ("wrong", True)


def test_an_idle_worker_whose_keeper_is_gone_is_named(
    cli: Cli, queue: Queue, broker: Broker, until: Callable[[Callable[[], bool]], None]
) -> None:
    command = [sys.executable, "-m", "broker.cli", "worker", "--queue", "photos", "--name", "w1", "--host", "h1"]
    worker = subprocess.Popen(
        [*command, "--redis-url", broker.url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "RQ_REDIS_URL": broker.url},
    )  # fmt: skip
    try:
        until(lambda: broker.redis.zcard(broker.keys.seats("photos")) == 1)
        assert "worker w1" not in findings(cli("doctor", "--json"))
        (keeper,) = [one for one in psutil.Process(worker.pid).children() if "worker_hooks.keeping" in one.cmdline()]
        keeper.kill()
        until(lambda: "worker w1" in findings(cli("doctor", "--json")))
        assert findings(cli("doctor", "--json"))["worker w1"][0] == "warning"
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)
