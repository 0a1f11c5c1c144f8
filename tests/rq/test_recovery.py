"""Jobs whose worker died, or was cut off from the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from tests.conftest import report
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks.parking import Lot
from worker_hooks.recovery import recover_abandoned

pytestmark = pytest.mark.timeout(120)
KILLED = "tests.rq.workers.KilledBeforeStart"
TOLD_TO_STOP = "tests.rq.workers.ToldToStopWithoutRedis"


def recovered(stage: Stage) -> int:
    return recover_abandoned(stage.queue, stage.broker)


def test_a_job_whose_worker_died_before_its_start_goes_back_with_its_retries(stage: Stage) -> None:
    stage.broker.update_config(reclaim_seconds=0.1)
    job = stage.enqueue(jobs.look, retries=2)
    assert stage.worker(KILLED, "--burst").wait(30) == -signal.SIGKILL
    assert stage.queue.job_ids == []
    assert recovered(stage) == 0  # its lease is not over yet
    stage.event("reclaimed")
    assert recovered(stage) == 1
    assert recovered(stage) == 0
    assert stage.queue.job_ids == [job.id]
    stage.burst()
    job.refresh()
    assert job.is_finished
    assert job.retries_left == 2


def test_a_started_job_whose_worker_died_is_retried_as_rq_has_it(stage: Stage) -> None:
    stage.broker.update_config(reclaim_seconds=0.1)
    job = stage.enqueue(jobs.linger, retries=2)
    worker = stage.worker()
    stage.hear()
    os.kill(worker.pid, signal.SIGKILL)
    stage.event("released")  # by its helper, which outlives it
    assert recovered(stage) == 1
    assert stage.queue.job_ids == [job.id]
    job.refresh()
    assert job.retries_left == 1


def test_a_worker_that_looked_dead_for_a_while_does_not_run_a_job_twice(stage: Stage) -> None:
    job = stage.enqueue(jobs.look, retries=0)
    worker = stage.worker("tests.rq.workers.StoppedAfterPop")
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
    assert Lot(stage.queue).give_back(job.id)  # as any worker does with a job that lies in nobody's hands for long
    stage.redis.lrem(stage.queue.key, 1, job.id)  # somebody else took it and is at work
    os.kill(worker.pid, signal.SIGCONT)
    stage.event("released")  # granted, and given back unused
    assert stage.queue.finished_job_registry.count == 0


def test_a_job_that_others_ran_meanwhile_is_not_put_back(stage: Stage) -> None:
    stage.broker.update_config(reclaim_seconds=0.1)
    job = stage.enqueue(jobs.look, retries=2)
    worker = stage.worker("tests.rq.workers.FrozenBeforeTheGate")
    while (horse := stage.redis.get("frozen")) is None:
        stage.redis.blpop(["nothing"], timeout=0.1)
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    family = [worker.pid, *(int(pid) for pid in children)]  # its keeper too: the whole host stands still
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    assert int(horse) in family
    stage.event("reclaimed")
    assert recovered(stage) == 1
    stage.burst()
    assert job.is_finished
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    stage.outcome(stage.queue.enqueue(jobs.plain))  # by the same worker, when it is done with the other
    assert len(job.results()) == 1
    assert job.get_status() == "finished"
    assert stage.queue.started_job_registry.count == 0


def test_a_worker_that_looked_dead_writes_nothing_into_a_job_that_is_not_its_own(stage: Stage) -> None:
    job = stage.enqueue(jobs.look, retries=0)
    worker = stage.worker("tests.rq.workers.StoppedAfterPop")
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
    stage.redis.lrem(stage.queue.intermediate_queue_key, 1, job.id)
    job.delete()
    os.kill(worker.pid, signal.SIGCONT)
    stage.event("released")
    assert not stage.redis.exists(job.key)


def test_a_worker_cut_off_from_the_ledger_ends_its_job_within_the_ttl(stage: Stage) -> None:
    with EmbeddedServer() as ledger:
        with Broker.from_url(ledger.url) as broker:
            Publisher(broker, "h1").publish([report("GPU-a")], 600_000)
        job = stage.enqueue(jobs.sleep_long, retries=0)
        stage.worker(GPUBROKER_REDIS_URL=ledger.url)
        with Redis.from_url(ledger.url, socket_timeout=PATIENCE + 10) as told:
            assert told.blpop(["told"], timeout=PATIENCE)  # past the start gate, which needs the ledger
    assert "LeaseLost" in stage.outcome(job)


def test_a_worker_that_is_told_to_stop_ends_though_redis_is_away() -> None:
    with EmbeddedServer() as server:
        command = [sys.executable, "-m", "rq.cli", "worker", "-u", server.url, "-w", TOLD_TO_STOP, "photos"]
        with subprocess.Popen(command, env={**os.environ, "GPUBROKER_REDIS_URL": server.url}) as worker:
            try:
                worker.wait(60)  # it asks for some seconds, as redis-py does, and once more to say that it ends
            finally:
                worker.kill()
    assert worker.returncode != -signal.SIGKILL


def test_an_idle_worker_that_is_told_to_stop_ends_though_redis_hangs() -> None:
    with EmbeddedServer() as server, Redis.from_url(server.url) as redis:
        pid = int(redis.info("server")["process_id"])
        command = [sys.executable, "-m", "rq.cli", "worker", "-u", server.url, "-w", "worker_hooks.GpuWorker", "photos"]
        with subprocess.Popen(command, env={**os.environ, "GPUBROKER_REDIS_URL": server.url}) as worker:
            try:
                while not any(one["cmd"] == "blmove" for one in redis.client_list()):
                    redis.blpop(["nothing"], timeout=0.1)
                os.kill(pid, signal.SIGSTOP)
                worker.terminate()
                time.sleep(17)  # longer than it waits for an answer: its doors cannot be closed
                os.kill(pid, signal.SIGCONT)
                worker.wait(30)
            finally:
                os.kill(pid, signal.SIGCONT)
                worker.kill()
    assert worker.returncode == 0
