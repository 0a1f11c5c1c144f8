"""A job for which there is no room yet."""

from __future__ import annotations

import signal
import subprocess

from rq.command import send_stop_execution_command
from rq.job import Job, JobStatus

from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage


def waiting_job(stage: Stage) -> tuple[Job, subprocess.Popen[bytes]]:
    """A job with two retries that waits in a worker, since somebody holds the card."""
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    job = stage.enqueue(jobs.look, retries=2)
    worker = stage.worker()
    assert stage.event("queued").fields["job_id"] == job.id
    return job, worker


def free_the_card(stage: Stage) -> None:
    somebody = stage.broker.get("somebody")
    assert somebody is not None
    stage.broker.release(somebody.id, somebody.token)


def assert_rq_holds_nothing(stage: Stage) -> None:
    assert stage.redis.lrange(stage.queue.intermediate_queue_key, 0, -1) == []
    assert stage.redis.zcard(stage.queue.started_job_registry.key) == 0


def test_a_waiting_job_runs_once_there_is_room_and_keeps_its_retries(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    free_the_card(stage)
    stage.outcome(job)
    job.refresh()
    assert job.get_status() == JobStatus.FINISHED
    assert job.retries_left == 2
    assert job.meta["gpu"]["waited_ms"] > 0


def test_a_waiting_job_is_queued_for_rq_and_known_to_its_registry(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    assert job.get_status() == JobStatus.QUEUED
    assert job.id in stage.queue.started_job_registry  # so that maintenance does not call it stuck


def test_sigterm_puts_a_waiting_job_back_in_front_with_its_retries(stage: Stage) -> None:
    job, worker = waiting_job(stage)
    behind = jobs.look.delay()
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
    assert stage.queue.job_ids == [job.id, behind.id]
    job.refresh()
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, 2)
    assert stage.broker.waiters() == []
    assert_rq_holds_nothing(stage)


def test_a_job_put_back_runs_in_the_next_worker(stage: Stage) -> None:
    job, worker = waiting_job(stage)
    worker.send_signal(signal.SIGINT)
    assert worker.wait(PATIENCE) == 0
    free_the_card(stage)
    stage.burst()
    job.refresh()
    assert (job.get_status(), job.retries_left) == (JobStatus.FINISHED, 2)


def test_a_cancelled_job_stops_waiting(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    job.cancel()
    stage.event("cancelled")
    assert stage.broker.waiters() == []
    free_the_card(stage)
    jobs.look.delay()
    stage.event("granted", 2)  # "somebody", then the job behind
    assert job.get_status() == JobStatus.CANCELED


def test_a_stop_command_ends_the_wait_and_not_the_worker(stage: Stage) -> None:
    job, worker = waiting_job(stage)
    (execution,) = job.get_executions()
    send_stop_execution_command(stage.redis, job.id, execution.id)
    assert "stopped by user" in stage.outcome(job)
    assert job.get_status() == JobStatus.STOPPED
    assert worker.poll() is None
    stage.event("cancelled")
    assert_rq_holds_nothing(stage)


def test_a_job_waits_while_its_host_has_no_agent(stage: Stage) -> None:
    job = jobs.look.delay()
    stage.worker("worker_hooks.GpuWorker", GPUBROKER_HOST="h2")
    assert stage.event("queued").fields["host"] == "h2"
    assert job.get_status() == JobStatus.QUEUED
