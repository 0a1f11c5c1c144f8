"""A job under ``GpuWorker``: from its budget to its budget's return."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest
from rq.command import send_stop_job_command
from rq.job import JobStatus

from broker.units import GIB
from tests.rq import bare, jobs
from tests.rq.conftest import PATIENCE, Stage


def assert_all_is_back(stage: Stage) -> None:
    stage.event("released")
    assert stage.broker.leases() == []
    assert stage.broker.available() == {"GPU-a": 5 * GIB + GIB // 2}


def test_a_job_sees_its_gpu_and_its_budget(stage: Stage) -> None:
    job = jobs.look.delay()
    stage.burst()
    seen = job.return_value()
    assert seen["device"] == "GPU-a"
    assert seen["memory"] == str(4 * GIB)


def test_the_environment_stands_before_job_code_is_imported(stage: Stage) -> None:
    job = jobs.look.delay()
    stage.burst()
    seen = job.return_value()
    assert seen["lease"]
    assert seen["at_import"] == seen["lease"]


def test_the_budget_is_held_while_the_job_runs_and_names_its_process(stage: Stage) -> None:
    job = jobs.linger.delay()
    stage.worker("worker_hooks.GpuWorker", "--burst")
    seen = stage.hear()
    (lease,) = stage.broker.leases()
    assert (lease.memory_bytes, lease.job_id, lease.pid) == (4 * GIB, job.id, seen["pid"])
    stage.go()
    assert stage.outcome(job) == "done"


def test_the_decorator_takes_nothing_twice(stage: Stage) -> None:
    jobs.look.delay()
    stage.burst()
    assert [event.kind for event in stage.broker.events()].count("granted") == 1


def test_a_job_that_ended_gave_its_budget_back(stage: Stage) -> None:
    jobs.look.delay()
    stage.burst()
    assert_all_is_back(stage)


def test_a_job_that_raised_gave_its_budget_back(stage: Stage) -> None:
    job = jobs.fail.delay()
    stage.burst()
    assert "the photo is broken" in stage.outcome(job)
    assert_all_is_back(stage)


def test_a_job_that_timed_out_gave_its_budget_back(stage: Stage) -> None:
    job = jobs.overrun.delay()
    stage.burst()
    assert "JobTimeoutException" in stage.outcome(job)
    assert_all_is_back(stage)


def test_a_horse_that_was_killed_gave_its_budget_back_at_once(stage: Stage) -> None:
    job = jobs.sleep_long.delay()
    stage.worker()
    os.kill(stage.hear()["pid"], signal.SIGKILL)
    assert "terminated unexpectedly" in stage.outcome(job)
    assert int(stage.event("released").fields["held_ms"]) < 3000  # not by its TTL
    assert_all_is_back(stage)


def test_a_stopped_job_gave_its_budget_back(stage: Stage) -> None:
    job = jobs.sleep_long.delay()
    stage.worker()
    stage.hear()
    send_stop_job_command(stage.redis, job.id)
    assert "stopped by user" in stage.outcome(job)
    assert_all_is_back(stage)


def test_every_attempt_has_a_lease_of_its_own(stage: Stage) -> None:
    stage.enqueue(jobs.fail, retries=1)
    stage.burst()
    granted = [event.fields["id"] for event in stage.broker.events() if event.kind == "granted"]
    assert len(granted) == len(set(granted)) == 2
    assert stage.broker.leases() == []


def test_meta_says_afterwards_what_the_job_got(stage: Stage) -> None:
    job = jobs.look.delay()
    stage.burst()
    got = job.get_meta()["gpu"]
    assert got["lease_id"] == job.return_value()["lease"]
    assert (got["gpu_uuids"], got["host"], got["waited_ms"]) == (["GPU-a"], "h1", 0)


def test_a_plain_job_borrows_nothing(stage: Stage) -> None:
    job = stage.queue.enqueue(jobs.plain)
    stage.burst()
    assert job.return_value()["lease"] is None
    assert "granted" not in [event.kind for event in stage.broker.events()]


def test_code_that_holds_the_gil_past_the_ttl_keeps_its_lease(stage: Stage) -> None:
    job = jobs.hold_the_gil.delay()
    stage.worker()
    stage.event("released")
    assert stage.outcome(job) == "True"
    assert "expired" not in [event.kind for event in stage.broker.events()]


def test_a_stopped_horse_keeps_its_lease(stage: Stage) -> None:
    jobs.linger.delay()
    stage.worker()
    pid = stage.hear()["pid"]
    os.kill(pid, signal.SIGSTOP)
    (before,) = stage.broker.leases()
    while (now := stage.broker.get(before.id)) and now.expires_at < before.expires_at + 3000:
        stage.redis.blpop(["nothing"], timeout=0.2)
    assert now is not None
    assert now.state == "active"
    os.kill(pid, signal.SIGCONT)
    stage.go()
    assert_all_is_back(stage)


@pytest.mark.parametrize("kind", ["tests.rq.workers.Robbed", "tests.rq.robbed.GpuSpawnWorker"])
def test_a_lease_lost_before_the_start_keeps_the_job_from_starting(stage: Stage, kind: str) -> None:
    job = stage.enqueue(jobs.look, retries=2)
    stage.burst(kind)
    granted = [event.fields["id"] for event in stage.broker.events() if event.kind == "granted"]
    assert len(granted) == 2
    job.refresh()
    assert job.return_value()["lease"] == granted[1]
    assert job.retries_left == 2


def test_a_spawned_horse_imports_no_more_than_it_needs(stage: Stage) -> None:
    job = stage.enqueue(bare.modules, retries=0)
    stage.burst("worker_hooks.GpuSpawnWorker")
    ours = {name for name in job.return_value() if name.split(".")[0] in ("broker", "worker_hooks", "agent")}
    assert "worker_hooks.horse" in ours
    assert not ours & {"broker.client", "broker.lease", "worker_hooks.worker", "worker_hooks.decorator"}
    assert stage.broker.leases() == []


def test_a_spawned_job_passes_the_gate_of_a_ledger_elsewhere(redis_url: str, stage: Stage) -> None:
    elsewhere = Stage(redis_url.removesuffix("/0") + "/1", stage.broker)
    job = elsewhere.enqueue(bare.modules, retries=0)
    elsewhere.burst("worker_hooks.GpuSpawnWorker")
    assert "broker.client" in job.return_value()  # which asked there
    elsewhere.close()


def test_a_job_whose_lease_is_lost_is_ended_and_says_so(stage: Stage) -> None:
    job = jobs.sleep_long.delay()
    stage.worker()
    seen = stage.hear()
    stage.broker.release(seen["lease"], seen["token"])
    assert "LeaseLost" in stage.outcome(job)


@pytest.mark.parametrize("name", ["impossible", "impatient"])
def test_a_refused_job_fails_visibly_without_running(stage: Stage, name: str) -> None:
    stage.broker.acquire("4GiB", lease_id="somebody")
    job = getattr(jobs, name).delay()
    stage.burst()
    assert job.id in stage.queue.failed_job_registry
    outcome = stage.outcome(job)
    assert ("ImpossibleRequest" if name == "impossible" else "InsufficientMemory") in outcome
    assert stage.heard() == 0


def test_a_bad_request_by_hand_fails_visibly(stage: Stage) -> None:
    job = stage.queue.enqueue(jobs.plain, meta={"gpu": {"memory_bytes": "-4GiB"}})
    stage.burst()
    assert "memory='-4GiB' is not allowed" in stage.outcome(job)


def test_a_killed_worker_takes_its_horse_along_and_the_job_is_found_again(stage: Stage) -> None:
    job = stage.enqueue(jobs.linger, retries=1)
    worker = stage.worker()
    horse = os.pidfd_open(stage.hear()["pid"])
    worker.kill()
    assert select.select([horse], [], [], PATIENCE)[0], "the horse outlived its worker"
    os.close(horse)
    stage.event("released")  # at once, by the helper that outlives the worker
    assert job.get_status() == JobStatus.STARTED
    stage.go()
    stage.worker()  # any worker of the queue looks for what others left
    assert stage.outcome(job) == "done"
    assert job.get_status() == JobStatus.FINISHED


def test_the_ledger_may_live_elsewhere_than_the_queue(redis_url: str, stage: Stage) -> None:
    elsewhere = Stage(redis_url.removesuffix("/0") + "/1", stage.broker)
    job = elsewhere.enqueue(jobs.look, retries=0)
    elsewhere.burst()
    assert job.return_value()["device"] == "GPU-a"
    elsewhere.close()


def test_meta_says_afterwards_what_the_job_used_and_what_it_wrote_itself(stage: Stage) -> None:
    job = jobs.note_and_wait.delay()
    stage.worker()
    seen = stage.hear()
    stage.broker.redis.hset(stage.broker.keys.lease(seen["lease"]), "peak_bytes", 3 * GIB)  # as an agent's sample does
    stage.go()
    stage.outcome(job)
    stage.event("released")
    assert (job.get_meta()["gpu"]["peak_bytes"], job.get_meta()["mine"]) == (3 * GIB, 1)


def test_a_worker_may_be_made_in_one_process_and_run_in_another(stage: Stage) -> None:
    job = jobs.look.delay()
    program = (
        "import multiprocessing, redis, worker_hooks, sys\n"
        "worker = worker_hooks.GpuWorker(['photos'], connection=redis.Redis.from_url(sys.argv[1]))\n"
        "child = multiprocessing.get_context('fork').Process(target=worker.work, kwargs={'burst': True})\n"
        "child.start()\n"
        "child.join()\n"
    )
    subprocess.run([sys.executable, "-c", program, stage.url], timeout=PATIENCE, check=True)
    assert job.is_finished


@pytest.mark.parametrize("borrows", [True, False])
def test_a_stop_right_after_the_fork_hits_the_horse_and_nobody_else(stage: Stage, borrows: bool) -> None:
    job = jobs.look.delay() if borrows else stage.queue.enqueue(jobs.plain)
    stage.burst("tests.rq.workers.StoppedRightAfterItsFork")
    assert job.get_status() == JobStatus.STOPPED


def test_what_a_worker_leaves_in_its_process_does_not_tell_rqs_own_what_to_do(stage: Stage) -> None:
    stage.broker.acquire("4GiB", lease_id="somebody", ttl=3)  # and nobody renews it
    program = (
        "import redis, rq, sys, worker_hooks\n"
        "connection = redis.Redis.from_url(sys.argv[1])\n"
        "worker_hooks.GpuWorker(['nothing'], connection=connection).work(burst=True)\n"
        "rq.SimpleWorker(['photos'], connection=connection).work(burst=True)\n"
    )
    job = stage.queue.enqueue(jobs.look)
    subprocess.run([sys.executable, "-c", program, stage.url], timeout=PATIENCE, check=True)
    assert job.get_status() == JobStatus.FINISHED
