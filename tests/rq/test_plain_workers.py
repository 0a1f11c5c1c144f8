"""The decorator alone: under RQ's own workers, and called directly."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import psutil
import pytest
from rq import Retry
from rq.job import JobStatus

from broker import InsufficientMemory
from tests.rq import jobs
from tests.rq.conftest import Stage
from worker_hooks import current_lease
from worker_hooks.decorator import GpuJob
from worker_hooks.request import GpuRequest


def kinds(stage: Stage) -> list[str]:
    return [event.kind for event in stage.broker.events() if event.kind in ("granted", "released", "expired")]


@pytest.mark.parametrize("kind", ["rq.worker.Worker", "rq.worker.SimpleWorker"])
def test_a_job_borrows_and_gives_back_under_rqs_own_workers(stage: Stage, kind: str) -> None:
    job = jobs.look.delay()
    stage.burst(kind)
    seen = job.return_value()
    assert (seen["device"], seen["lease"].split(".")[0]) == ("GPU-a", job.id)
    assert kinds(stage) == ["granted", "released"]
    assert job.get_meta()["gpu"]["lease_id"] == seen["lease"]


def test_a_job_that_raised_gave_its_budget_back(stage: Stage) -> None:
    job = jobs.fail.delay()
    stage.burst("rq.worker.Worker")
    assert "the photo is broken" in stage.outcome(job)
    assert kinds(stage) == ["granted", "released"]


def test_a_job_that_timed_out_gave_its_budget_back(stage: Stage) -> None:
    job = jobs.overrun.delay()
    stage.burst("rq.worker.Worker")
    assert "JobTimeoutException" in stage.outcome(job)
    assert kinds(stage) == ["granted", "released"]


def test_the_keeper_gives_back_what_a_killed_horse_held_at_once(stage: Stage) -> None:
    jobs.sleep_long.delay()
    stage.worker("rq.worker.Worker")
    os.killpg(stage.hear()["pid"], signal.SIGKILL)  # as RQ kills: the job and all that it started
    stage.event("released")
    assert kinds(stage) == ["granted", "released"]


def test_the_keeper_renews_for_code_that_holds_the_gil(stage: Stage) -> None:
    job = jobs.hold_the_gil.delay()
    stage.worker("rq.worker.Worker")
    stage.event("released")
    assert stage.outcome(job) == "True"
    assert kinds(stage) == ["granted", "released"]


def test_a_lost_lease_is_an_exception_in_the_job(stage: Stage) -> None:
    job = jobs.sleep_long.delay()
    stage.worker("rq.worker.Worker")
    seen = stage.hear()
    stage.broker.release(seen["lease"], seen["token"])
    assert "LeaseLost" in stage.outcome(job)


def test_a_job_that_chose_so_is_killed_when_its_lease_is_lost(stage: Stage) -> None:
    job = jobs.rather_die.delay()
    stage.worker("rq.worker.Worker")
    seen = stage.hear()
    stage.broker.release(seen["lease"], seen["token"])
    assert "terminated unexpectedly" in stage.outcome(job)


def test_a_job_that_chose_a_callback_goes_on_to_its_own_end(stage: Stage) -> None:
    job = jobs.take_note.delay()
    stage.worker("rq.worker.Worker")
    seen = stage.hear()
    stage.broker.revoke(seen["lease"], grace=60)
    assert stage.hear() == {"noted": seen["lease"], "lost": True}
    stage.go()
    assert stage.outcome(job) == "saved what there was"
    assert kinds(stage) == ["granted", "released"]


def test_a_revoked_lease_is_an_exception_in_the_job_in_time(stage: Stage) -> None:
    job = jobs.sleep_long.delay()
    stage.worker("rq.worker.Worker")
    stage.broker.revoke(stage.hear()["lease"], grace=60)
    assert "LeaseLost" in stage.outcome(job)
    assert kinds(stage) == ["granted", "released"]


def test_a_callback_that_is_nowhere_fails_the_job_before_it_runs(stage: Stage) -> None:
    job = jobs.nobody_to_tell.delay()
    stage.burst("rq.worker.Worker")
    assert "on_lease_lost='tests.rq.jobs.nowhere' is not allowed" in stage.outcome(job)
    assert stage.heard() == 0
    assert kinds(stage) == ["granted", "released"]


@pytest.mark.parametrize("task", [jobs.linger, jobs.rather_die])
def test_a_killed_keeper_is_replaced_while_the_job_runs(stage: Stage, task: GpuJob[..., Any]) -> None:
    job = task.delay()
    stage.worker("rq.worker.Worker")
    seen = stage.hear()
    (keeper,) = psutil.Process(seen["pid"]).children()
    keeper.kill()
    while keeper.is_running() and keeper.status() != psutil.STATUS_ZOMBIE:  # the job waits for it when it next looks
        stage.redis.blpop(["nothing"], timeout=0.05)
    first = stage.broker.get(seen["lease"])
    assert first is not None
    # It is renewed beyond the end that the first keeper left it.
    while (now := stage.broker.get(seen["lease"])) and now.expires_at <= first.expires_at:
        stage.redis.blpop(["nothing"], timeout=0.1)
    assert now is not None
    assert now.state == "active"
    stage.go()
    assert "LeaseLost" not in stage.outcome(job)
    assert kinds(stage) == ["granted", "released"]


def test_a_job_waits_for_room_under_rqs_own_worker(stage: Stage) -> None:
    held = stage.broker.acquire("4GiB", ttl=600)
    job = jobs.look.delay()
    stage.worker("rq.worker.Worker")
    stage.event("queued")
    held.release()
    assert "GPU-a" in stage.outcome(job)


def test_a_direct_call_borrows_for_its_own_length(stage: Stage) -> None:
    seen = jobs.look()
    assert seen["device"] == "GPU-a"
    assert kinds(stage) == ["granted", "released"]


def test_a_direct_call_leaves_the_environment_as_it_was(stage: Stage) -> None:
    before = dict(os.environ)
    jobs.look()
    assert dict(os.environ) == before
    assert current_lease() is None


def test_a_direct_call_is_refused_when_there_is_no_room_in_time(stage: Stage) -> None:
    stage.broker.acquire("4GiB", ttl=600)
    with pytest.raises(InsufficientMemory):
        jobs.impatient()


def test_a_call_inside_a_job_runs_under_that_jobs_lease(stage: Stage) -> None:
    outer, inner = jobs.calls_another()
    assert outer == inner
    assert kinds(stage) == ["granted", "released"]


def test_a_coroutine_holds_its_lease_until_it_is_done(stage: Stage) -> None:
    assert asyncio.run(jobs.coroutine())
    assert kinds(stage) == ["granted", "released"]


def test_a_job_told_so_comes_again_instead_of_waiting_in_its_worker(stage: Stage) -> None:
    holder = stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    meta = {"gpu": GpuRequest.checked("4GiB", reschedule=1).as_meta()}
    job = stage.queue.enqueue(jobs.come_again, meta=meta, retry=Retry(max=2))
    stage.burst("rq.worker.Worker")
    assert job.get_status() == JobStatus.SCHEDULED
    assert stage.broker.waiters() == []
    assert stage.redis.zcard(stage.queue.started_job_registry.key) == 0
    holder.release()
    stage.worker("rq.worker.Worker", "--with-scheduler")
    assert stage.outcome(job) == "done"
    job.refresh()
    assert (job.retries_left, job.number_of_retries) == (2, None)
