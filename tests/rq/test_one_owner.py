"""A job has one owner: of two who settle it at once, one does, and a worker that was taken for dead writes no end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from rq import Callback, Retry, Worker
from rq.job import Job
from rq.rate_limit import RateLimit

from tests.rq import jobs
from tests.rq.conftest import Stage
from worker_hooks import GpuWorker
from worker_hooks.recovery import recover_abandoned, recover_forgotten
from worker_hooks.request import GpuRequest

pytestmark = pytest.mark.timeout(120)
META = {"gpu": GpuRequest.checked("4GiB", ttl=3).as_meta()}
OVERTAKEN = ["tests.rq.workers.GpuWorkerOvertaken", "tests.rq.workers.GpuSimpleWorkerOvertaken"]


def orphaned(stage: Stage, *, forgotten: bool, **options: object) -> Job:
    """A job at work whose worker was killed; ``forgotten``, and RQ has not heard of it for long."""
    stage.broker.update_config(reclaim_seconds=0.1)
    job = stage.queue.enqueue(jobs.linger, meta=META, **options)
    worker = stage.worker()
    stage.hear()
    os.kill(worker.pid, signal.SIGKILL)
    stage.event("released")  # by its helper, which outlives it
    if forgotten:
        (entry,) = stage.redis.zrange(stage.queue.started_job_registry.key, 0, -1)
        stage.redis.zadd(stage.queue.started_job_registry.key, {entry: 1})
    return job


def test_a_job_that_is_recovered_in_the_midst_of_rqs_clean_up_is_queued_once(stage: Stage) -> None:
    job = orphaned(stage, forgotten=True, retry=Retry(max=2), on_failure=Callback(jobs.recover_meanwhile))
    Worker([stage.queue], connection=stage.redis).clean_registries()
    assert stage.hear() == {"found": 0}
    assert stage.queue.job_ids == [job.id]
    job.refresh()
    assert job.retries_left == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_a_forgotten_job_is_retried_or_fails_as_rq_has_it(stage: Stage, retries: int) -> None:
    retry = Retry(max=retries) if retries else None
    job = orphaned(stage, forgotten=True, retry=retry, on_failure=Callback(jobs.tell))
    GpuWorker([stage.queue], connection=stage.redis).clean_registries()
    assert stage.hear() == {"called": "back"}
    assert stage.queue.job_ids == ([job.id] if retries else [])
    job.refresh()
    assert job.is_failed == (not retries)
    assert job.retries_left == (1 if retries else None)
    assert not stage.redis.exists(stage.queue.registry_cleaning_key)


def test_a_forgotten_job_is_left_alone_while_somebody_cleans_up(stage: Stage) -> None:
    job = orphaned(stage, forgotten=True, retry=Retry(max=2))
    assert stage.queue.acquire_maintenance_lock()
    assert recover_abandoned(stage.queue, stage.broker) == recover_forgotten(stage.queue) == 0
    stage.queue.release_maintenance_lock()
    assert recover_abandoned(stage.queue, stage.broker) == 1
    assert stage.queue.job_ids == [job.id]


def test_a_job_whose_worker_died_is_retried_later_if_that_is_its_way(stage: Stage) -> None:
    job = orphaned(stage, forgotten=False, retry=Retry(max=2, interval=60))
    assert recover_abandoned(stage.queue, stage.broker) == 1
    assert stage.queue.scheduled_job_registry.get_job_ids() == [job.id]
    job.refresh()
    assert (job.get_status(), job.retries_left) == ("scheduled", 1)


@pytest.mark.parametrize("kind", OVERTAKEN, ids=["forks", "simple"])
@pytest.mark.parametrize("end", ["succeeds", "raises", "asks for a retry", "is retried later"])
def test_an_attempt_that_was_overtaken_writes_no_end(stage: Stage, kind: str, end: str, tmp_path: Path) -> None:
    function = {"succeeds": jobs.succeed, "asks for a retry": jobs.return_retry}.get(end, jobs.fail)
    arguments = [str(tmp_path / "there")] if function is jobs.return_retry else []
    retry = Retry(max=1, interval=60 if end == "is retried later" else 0)
    job = stage.queue.enqueue(function, *arguments, meta=META, retry=retry)
    stage.burst(kind)
    job.refresh()
    assert job.retries_left == 0
    assert stage.queue.job_ids == []
    if end == "is retried later":
        assert stage.redis.get("performed") == b"1"
        assert job.get_status() == "scheduled"
    else:
        assert stage.redis.get("performed") == b"2"
        assert job.get_status() == ("failed" if end == "raises" else "finished")
        assert len(job.results()) == 1
    assert stage.redis.zcard(stage.queue.started_job_registry.key) == 0
    assert list(stage.redis.scan_iter("rq:execution*")) == []


@pytest.mark.parametrize("kind", ["worker_hooks.GpuWorker", "worker_hooks.GpuSimpleWorker"])
@pytest.mark.parametrize("how", ["cancelled", "deleted"])
def test_a_running_job_that_is_taken_from_rq_frees_its_rate_limits_slot_at_its_end(
    stage: Stage, kind: str, how: str
) -> None:
    limit = RateLimit(key="card", concurrency=1)
    job = stage.queue.enqueue(jobs.linger, meta=META, rate_limit=limit)
    after = stage.queue.enqueue(jobs.succeed, rate_limit=limit)
    stage.worker(kind)
    stage.hear()
    if how == "cancelled":
        job.cancel()
    else:
        job.delete()
    assert after.get_status() == "rate_limited"
    stage.go()
    assert stage.outcome(after) == "done"
