"""A job that gives its lease back and is run again: at its own wish, or when its card is asked for back."""

from __future__ import annotations

import pytest
from rq import Retry

from broker.errors import BrokerError, LeaseLost
from tests.rq import jobs
from tests.rq.conftest import Stage
from worker_hooks import gpu_job, run_again
from worker_hooks.again import RunAgain

OURS = ["worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker"]


@pytest.mark.parametrize("kind", [*OURS, "rq.worker.Worker"])
def test_a_job_runs_again_at_its_own_wish_and_burns_no_retry(stage: Stage, kind: str) -> None:
    job = stage.enqueue(jobs.move_once, retries=1)
    behind = stage.queue.enqueue(jobs.plain)
    stage.burst(kind)
    first, second = stage.hear(), stage.hear()
    assert (first["again"], second["again"]) == (0, 1)
    assert first["token"] < second["token"], "the second attempt has a lease of its own"
    job.refresh()
    assert (job.get_status(), job.return_value(), job.retries_left) == ("finished", "moved", 1)
    assert (job.meta["gpu"]["again"], job.meta["gpu"]["again_reason"]) == (1, "this card is hot")
    assert behind.get_status() == "finished"
    assert not stage.broker.leases()
    assert stage.heard() == 0, "code that goes on after any error did not go on after this"
    assert len(stage.queue.started_job_registry) == len(stage.queue.failed_job_registry) == 0
    happened = [one.kind for one in stage.broker.events() if one.kind in ("granted", "released")]
    assert happened == ["granted", "released"] * 2


def test_a_job_that_wished_twice_is_told_of_both(stage: Stage) -> None:
    job = stage.queue.enqueue(jobs.move_often, 3)
    stage.burst()
    job.refresh()
    assert (job.get_status(), job.meta["gpu"]["again"]) == ("finished", 3)


@pytest.mark.parametrize("kind", [*OURS, "rq.worker.Worker"])
def test_a_job_whose_card_is_asked_for_back_goes_and_comes_again(stage: Stage, kind: str) -> None:
    job = jobs.movable.delay()
    stage.worker(kind)
    first = stage.hear()
    stage.broker.revoke(first["lease"], grace=10, reason="hot")
    second = stage.hear()
    assert second["token"] > first["token"]
    stage.go()
    assert stage.outcome(job) == "done"
    job.refresh()
    assert "asked for back" in job.meta["gpu"]["again_reason"]


def test_under_a_worker_that_cannot_run_it_again_it_fails_and_says_why(stage: Stage) -> None:
    job = jobs.move_once.delay()
    stage.burst("rq.worker.SimpleWorker")
    assert job.get_status() == "failed"
    assert "this card is hot" in job.latest_result().exc_string
    assert not stage.broker.leases()


def test_outside_of_a_job_there_is_nothing_to_run_again() -> None:
    with pytest.raises(BrokerError, match="the code of an RQ job"):
        run_again()


def test_a_direct_call_that_was_to_run_again_hears_that_its_lease_is_lost(stage: Stage) -> None:
    @gpu_job("photos", memory="1GiB")
    def call() -> None:
        raise RunAgain("lost")

    with pytest.raises(LeaseLost):
        call()
    assert not stage.broker.leases()


def test_its_next_failure_is_retried_as_its_rules_say(stage: Stage) -> None:
    job = stage.queue.enqueue(
        jobs.move_then_fail, meta={"gpu": {"memory_bytes": 1 << 30}}, retry=Retry(max=1), result_ttl=60
    )
    stage.burst()
    assert stage.heard() == 3, "again, then failed, then its one retry"
    assert job.get_status(refresh=True) == "failed"
