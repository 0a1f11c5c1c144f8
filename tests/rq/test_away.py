"""Everybody was away for longer than anything is remembered: a machine that was off."""

from __future__ import annotations

import signal

import pytest
from rq.registry import StartedJobRegistry

from tests.rq import jobs
from tests.rq.conftest import Stage

KILLED = "tests.rq.workers.KilledBeforeStart"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("looked_at", "retries"), [(False, 2), (True, 1)], ids=["by ours", "by a page of RQ's"])
def test_a_job_that_was_taken_up_when_its_machine_went_off_runs_when_it_is_back(
    stage: Stage, looked_at: bool, retries: int
) -> None:
    stage.broker.update_config(reclaim_seconds=0.1)
    job = stage.enqueue(jobs.look, retries=2)
    assert stage.worker(KILLED, "--burst").wait(30) == -signal.SIGKILL
    stage.event("reclaimed")
    # Ten minutes later: the ledger has forgotten the lease's name, and RQ's heartbeats are over.
    for key in stage.broker.redis.scan_iter("gpubroker:*:ended:*"):
        stage.broker.redis.delete(key)
    registry = StartedJobRegistry(queue=stage.queue)
    (entry,) = stage.redis.zrange(registry.key, 0, -1)
    stage.redis.zadd(registry.key, {entry: 1})
    if looked_at:  # `rq info`, a dashboard, a plain worker: RQ's own clean-up knows it as abandoned, so as a lost try
        registry.cleanup()
    stage.worker()  # its first maintenance comes before all else
    assert "GPU-a" in stage.outcome(job)
    job.refresh()
    assert job.retries_left == retries
