"""A job for which there is no room yet: parked, while its worker goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from rq import Queue, Retry, Worker
from rq.job import Job, JobStatus
from rq.registry import ScheduledJobRegistry

from broker.embedded import EmbeddedServer
from broker.publish import Publisher
from tests.conftest import report
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks import recovery
from worker_hooks.parking import Lot
from worker_hooks.request import GpuRequest

KINDS = ("worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker")


def waiting_job(
    stage: Stage, queues: tuple[str, ...] = ("photos",), kind: str = KINDS[0]
) -> tuple[Job, subprocess.Popen[bytes]]:
    """A job with two retries that is parked, since somebody holds the card."""
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    job = stage.enqueue(jobs.look, retries=2)
    worker = stage.worker(kind, queues=queues)
    assert stage.event("queued").fields["job_id"] == job.id
    stage.parked(job)
    return job, worker


def free_the_card(stage: Stage) -> None:
    somebody = stage.broker.get("somebody")
    assert somebody is not None
    stage.broker.release(somebody.id, somebody.token)


def assert_rq_holds_nothing(stage: Stage) -> None:
    assert stage.redis.lrange(stage.queue.intermediate_queue_key, 0, -1) == []
    assert stage.redis.zcard(stage.queue.started_job_registry.key) == 0
    assert stage.queue.scheduled_job_registry.count == 0
    assert len(Lot(stage.queue)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_waiting_job_runs_once_there_is_room_and_keeps_its_retries(stage: Stage, kind: str) -> None:
    job, _ = waiting_job(stage, kind=kind)
    free_the_card(stage)
    stage.outcome(job)
    job.refresh()
    assert job.get_status() == JobStatus.FINISHED
    assert job.retries_left == 2
    assert job.meta["gpu"]["waited_ms"] >= 0
    assert job.meta["gpu"]["gpu_uuids"] == ["GPU-a"]
    assert_rq_holds_nothing(stage)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_sent_off_without_its_request_is_parked_as_well(stage: Stage, kind: str) -> None:
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    job = stage.queue.enqueue(jobs.look, retry=Retry(max=2))  # not look.delay(): RQ knows nothing of GPUs
    stage.worker(kind)
    assert stage.event("queued").fields["job_id"] == job.id
    stage.parked(job)
    assert "pid" in stage.outcome(stage.queue.enqueue(jobs.plain))
    free_the_card(stage)
    stage.outcome(job)
    job.refresh()
    assert (job.get_status(), job.retries_left) == (JobStatus.FINISHED, 2)
    assert_rq_holds_nothing(stage)


def test_a_job_sent_off_without_its_request_starts_at_once_where_there_is_room(stage: Stage) -> None:
    job = stage.queue.enqueue(jobs.look)
    stage.burst()
    job.refresh()
    assert job.return_value()["device"] == "GPU-a"
    assert "again" not in job.meta["gpu"]


def test_a_job_sent_off_without_its_request_finds_room_on_another_host(stage: Stage) -> None:
    Publisher(stage.broker, "h2").publish([report("GPU-b")], 600_000)
    stage.broker.acquire("4GiB", gpu="GPU-a", lease_id="somebody", ttl=600)
    job = stage.queue.enqueue(jobs.look)
    stage.worker()
    stage.parked(job)
    stage.worker(GPUBROKER_HOST="h2")
    stage.outcome(job)
    job.refresh()
    assert job.meta["gpu"]["gpu_uuids"] == ["GPU-b"]


def test_a_job_sent_off_without_its_request_waits_for_a_ledger_that_is_away(stage: Stage) -> None:
    with EmbeddedServer() as ledger:
        pass  # it is gone
    job = stage.queue.enqueue(jobs.look, retry=Retry(max=2))
    stage.worker(GPUBROKER_REDIS_URL=ledger.url)
    stage.parked(job)
    job.refresh()
    assert job.retries_left == 2


def test_rq_shows_a_waiting_job_as_scheduled(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    assert job.get_status() == JobStatus.SCHEDULED
    assert job.id in ScheduledJobRegistry(queue=stage.queue)
    assert stage.queue.count == 0


def test_a_worker_whose_job_waits_is_idle_and_runs_what_can_run(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    plain = stage.queue.enqueue(jobs.plain)
    assert "pid" in stage.outcome(plain)
    small = stage.queue.enqueue(jobs.look, meta={"gpu": GpuRequest.checked("1GiB").as_meta()})
    assert "GPU-a" in stage.outcome(small)
    assert job.get_status() == JobStatus.SCHEDULED
    (worker,) = Worker.all(queue=stage.queue)
    while worker.get_state() != "idle":
        worker.refresh()


def test_a_waiting_job_starts_soon_after_room_came(stage: Stage) -> None:
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    job = stage.enqueue(jobs.linger, retries=0)
    stage.worker()
    stage.parked(job)
    stage.sitting()
    start = time.monotonic()
    free_the_card(stage)
    stage.hear()
    assert time.monotonic() - start < 2  # pushed: no look around, which comes every 5 s
    stage.go()
    stage.outcome(job)


def test_a_job_goes_where_room_comes_not_where_it_was_popped(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    Publisher(stage.broker, "h2").publish([report("GPU-b")], 600_000)
    stage.worker(GPUBROKER_HOST="h2")
    assert stage.outcome(job)
    job.refresh()
    assert (job.meta["gpu"]["host"], job.meta["gpu"]["gpu_uuids"]) == ("h2", ["GPU-b"])


def test_the_best_place_wins_not_the_first_worker(stage: Stage) -> None:
    Publisher(stage.broker, "h2").publish([report("GPU-b")], 600_000)
    stage.broker.acquire("1536MiB", gpu="GPU-b", ttl=600)  # 4 GiB are left there: the job fits exactly
    stage.worker(GPUBROKER_HOST="h2")
    stage.sitting()
    stage.worker()
    stage.sitting(2)
    for _ in range(4):  # whoever pops it
        job = jobs.look.delay()
        assert "GPU-b" in stage.outcome(job)
        stage.sitting(2)


def test_sigterm_leaves_a_waiting_job_parked_and_another_worker_starts_it(stage: Stage) -> None:
    job, worker = waiting_job(stage)
    worker.terminate()
    assert worker.wait(PATIENCE) == 0
    free_the_card(stage)
    stage.burst()
    job.refresh()
    assert (job.get_status(), job.retries_left) == (JobStatus.FINISHED, 2)
    assert_rq_holds_nothing(stage)


def test_a_killed_worker_leaves_a_waiting_job_parked(stage: Stage) -> None:
    job, worker = waiting_job(stage)
    os.kill(worker.pid, signal.SIGKILL)
    free_the_card(stage)
    stage.burst()
    job.refresh()
    assert (job.get_status(), job.retries_left) == (JobStatus.FINISHED, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_popped_when_the_worker_is_asked_to_stop_goes_back(stage: Stage, kind: str) -> None:
    job = jobs.look.delay()
    name = kind.removeprefix("worker_hooks.")
    stage.burst(f"tests.rq.workers.{name}SignalledAfterPop")
    assert stage.queue.job_ids == [job.id]
    assert job.get_status() == JobStatus.QUEUED
    assert_rq_holds_nothing(stage)


def test_a_worker_on_many_queues_leaves_nothing_behind_after_a_wait(stage: Stage) -> None:
    job, _ = waiting_job(stage, ("urgent", "photos"))
    urgent = Queue("urgent", connection=stage.redis).enqueue(jobs.plain)
    stage.outcome(urgent)
    free_the_card(stage)
    stage.outcome(job)
    assert_rq_holds_nothing(stage)
    assert stage.redis.lrange("rq:queue:urgent:intermediate", 0, -1) == []


def test_a_cancelled_job_stops_waiting(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    job.cancel()
    stage.event("cancelled")
    assert stage.broker.waiters() == []
    free_the_card(stage)
    behind = jobs.look.delay()
    stage.outcome(behind)
    assert job.get_status() == JobStatus.CANCELED
    assert_rq_holds_nothing(stage)


def test_a_deleted_job_is_not_started_and_its_grant_returned(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = waiting_job(stage)
    job.delete()
    free_the_card(stage)  # its request may be granted before anybody sees that it is gone
    behind = jobs.look.delay()
    assert "GPU-a" in stage.outcome(behind)
    assert_rq_holds_nothing(stage)


def test_a_job_waits_while_no_host_of_its_workers_has_an_agent(stage: Stage) -> None:
    job = jobs.look.delay()
    stage.worker("worker_hooks.GpuWorker", GPUBROKER_HOST="h2")
    stage.parked(job)
    assert job.get_status() == JobStatus.SCHEDULED


def test_a_wait_that_is_over_fails_the_job_visibly(stage: Stage) -> None:
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=600)
    job = jobs.impatient.delay()
    stage.worker()
    assert "InsufficientMemory" in stage.outcome(job)
    assert job.id in stage.queue.failed_job_registry
    assert stage.heard() == 0
    assert stage.broker.waiters() == []
    assert_rq_holds_nothing(stage)


def test_a_ledger_that_forgot_its_waiters_gets_them_again(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    for key in stage.broker.redis.scan_iter("gpubroker:*"):
        stage.broker.redis.delete(key)
    stage.broker.update_config(grace_seconds=1)
    Publisher(stage.broker, "h1").publish([report("GPU-a")], 600_000)
    stage.outcome(job)
    job.refresh()
    assert job.retries_left == 2


def test_jobs_that_wait_keep_their_order(stage: Stage) -> None:
    stage.broker.acquire("5GiB", lease_id="somebody", ttl=600)
    meta = {"gpu": GpuRequest.checked("5GiB").as_meta()}
    waiting = [stage.queue.enqueue(jobs.plain, meta=meta) for _ in range(4)]
    stage.worker()
    stage.parked(waiting[-1])
    free_the_card(stage)
    for job in waiting:
        stage.outcome(job)
    granted = [event.fields["job_id"] for event in stage.broker.events() if event.kind == "granted"]
    assert granted[1:] == [job.id for job in waiting]


def test_what_a_dead_worker_had_popped_goes_back_to_the_front(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker_hooks.parking.IN_HAND_SECONDS", 0.1)
    first, second = jobs.look.delay(), jobs.look.delay()
    stage.redis.lmove(stage.queue.key, stage.queue.intermediate_queue_key)
    assert recovery.recover(stage.queue, stage.broker) == 0  # it may be in somebody's hands
    stage.redis.blpop(["nothing"], timeout=0.2)
    assert recovery.recover(stage.queue, stage.broker) == 1
    assert stage.queue.job_ids == [first.id, second.id]


def test_parked_jobs_are_rq_schedulers_if_nobody_of_ours_is_left(stage: Stage) -> None:
    job, worker = waiting_job(stage)
    os.kill(worker.pid, signal.SIGKILL)
    due = ScheduledJobRegistry(queue=stage.queue).get_scheduled_time(job).timestamp()
    assert 0 < due - time.time() <= 600 + 60


def test_people_are_told_why_a_job_waits(stage: Stage) -> None:
    job, _ = waiting_job(stage)
    stage.sitting()
    told = stage.broker.explain(job.id)
    assert (told.kind, told.place) == ("waiting", 1)
    assert "too little free" in str(told)
    free_the_card(stage)
    stage.outcome(job)
