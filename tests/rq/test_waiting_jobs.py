"""A job for which there is no room yet."""

from __future__ import annotations

import signal
import subprocess
import time

from rq.command import send_stop_execution_command
from rq.job import Job, JobStatus

from broker.calls import WAITER_BEAT_SECONDS
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks.admission import Admission
from worker_hooks.request import GpuRequest


def waiting_job(stage: Stage, queues: tuple[str, ...] = ("photos",)) -> tuple[Job, subprocess.Popen[bytes]]:
    """A job with two retries that waits in a worker, since somebody holds the card."""
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    job = stage.enqueue(jobs.look, retries=2)
    worker = stage.worker(queues=queues)
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
    assert job.meta["gpu"]["waited_ms"] >= 0


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


def test_a_job_popped_when_the_worker_is_asked_to_stop_goes_back(stage: Stage) -> None:
    job = jobs.look.delay()
    stage.burst("tests.rq.workers.SignalledAfterPop")
    assert stage.queue.job_ids == [job.id]
    assert job.get_status() == JobStatus.QUEUED
    assert_rq_holds_nothing(stage)


def test_a_waiting_job_of_a_worker_on_many_queues_can_be_found_if_the_worker_dies(stage: Stage) -> None:
    job, worker = waiting_job(stage, ("urgent", "photos"))
    while stage.redis.lpos(stage.queue.intermediate_queue_key, job.id) is None:
        assert worker.poll() is None
    worker.kill()
    assert worker.wait(PATIENCE) == -signal.SIGKILL
    assert stage.redis.lrange(stage.queue.intermediate_queue_key, 0, -1) == [job.id.encode()]


def test_a_worker_on_many_queues_leaves_nothing_behind_after_a_wait(stage: Stage) -> None:
    job, _ = waiting_job(stage, ("urgent", "photos"))
    while stage.redis.lpos(stage.queue.intermediate_queue_key, job.id) is None:
        pass
    free_the_card(stage)
    stage.outcome(job)
    assert_rq_holds_nothing(stage)


def test_a_sleep_ends_when_it_is_interrupted(stage: Stage) -> None:
    stage.broker.acquire("4GiB", ttl=600)
    admission = Admission(stage.broker, GpuRequest.checked("4GiB").ask("waiter"))
    assert admission.ask() is None
    before = signal.signal(signal.SIGALRM, lambda *_: admission.interrupt())
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    start = time.monotonic()
    admission.sleep()
    admission.sleep()
    assert time.monotonic() - start < WAITER_BEAT_SECONDS - 0.5
    signal.signal(signal.SIGALRM, before)


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
