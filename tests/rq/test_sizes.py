"""Jobs of memory="auto": they ask for what was learned, and are run again with more where that was too little."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from rq import Retry
from rq.job import Job

from broker import Broker, InvalidRequest
from broker.sizes import Learned, bucket_of
from broker.units import GIB, MIB
from broker.values import HostReport
from tests.rq import sized_jobs
from tests.rq.conftest import Stage
from worker_hooks import gpu_job, sizing
from worker_hooks.request import GpuRequest

Cards = Callable[..., None]
OURS = ["worker_hooks.GpuWorker", "worker_hooks.GpuSpawnWorker", "worker_hooks.GpuSimpleWorker"]
KINDS = [*OURS, "rq.worker.Worker"]
NAME = "tests.rq.sized_jobs.enhance"


def learned(broker: Broker, peak: int, *, size: float | None = None, runs: int = 3, name: str = NAME) -> None:
    for number in range(runs):
        broker.learn(name, f"{size}-{peak}-{number}", 4 * GIB, size=size, peak_bytes=peak)


def only(broker: Broker) -> Learned:
    """What was learned, where that is of one function and size."""
    (one,) = broker.sizes()
    return one


# -- what a decorator may say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "values"), [
    ("default", {"memory": "auto"}), ("default", {"memory": "auto", "default": "much"}),
    ("default", {"memory": "auto", "default": 0}), ("default", {"memory": "4GiB", "default": "4GiB"}),
    ("size_of", {"memory": "4GiB", "size_of": len}), ("size_of", {"memory": "auto", "default": 1, "size_of": 24}),
    ("memory", {"memory": ["auto", "4GiB"], "default": "4GiB"}), ("memory", {"memory": ["auto"], "default": "4GiB"}),
    ("memory", {"memory": "automatic"}), ("gpus", {"memory": "auto", "default": "4GiB", "gpus": 2}),
], ids=str)  # fmt: skip
def test_what_cannot_be_meant_is_refused_at_decoration(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}="):
        gpu_job("photos", **values)


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, "24", None, True], ids=str)
def test_a_size_that_is_none_is_refused_where_the_job_is_sent_off(stage: Stage, size: object) -> None:
    @gpu_job("photos", memory="auto", default="4GiB", size_of=lambda photo: size)
    def enhance(photo: str) -> None: ...

    with pytest.raises(InvalidRequest, match=r"^size_of="):
        enhance.delay("a.jpg")
    assert len(stage.queue) == 0


def test_an_error_of_size_of_is_one_clear_refusal(stage: Stage) -> None:
    with pytest.raises(
        InvalidRequest, match=r"^size_of=.*TypeError.* is not allowed: a function of the job's arguments"
    ):
        sized_jobs.enhance.delay("24", "wide")
    assert len(stage.queue) == 0


def test_the_size_travels_and_what_is_rqs_own_is_not_measured(stage: Stage) -> None:
    first = sized_jobs.enhance.delay(6, height=4, job_id="photo-7")
    second = sized_jobs.enhance.enqueue(2, depends_on=first)
    assert first.id == "photo-7"
    asked = {"memory": "auto", "default_bytes": 4 * GIB, "size": 24.0, "priority": 0, "tenant": "default"}
    assert first.meta["gpu"] == asked | {"on_lease_lost": "raise"}
    assert second.meta["gpu"]["size"] == 2.0
    assert GpuRequest.of_meta(json.loads(json.dumps(first.meta))) == GpuRequest.checked(
        "auto", default="4GiB", size=24
    )  # fmt: skip


@pytest.mark.parametrize(("field", "meta"), [
    ("default", {}), ("default", {"default_bytes": -1}), ("size", {"default_bytes": 1, "size": 0}),
    ("size", {"default_bytes": 1, "size": "large"}), ("gpus", {"default_bytes": 1, "gpus": 2}),
    ("too_little_bytes", {"default_bytes": 1, "too_little_bytes": "much"}),
    ("priority", {"default_bytes": 1, "priority": 9999}),
], ids=str)  # fmt: skip
def test_what_is_written_into_meta_by_hand_is_checked_as_any_other(field: str, meta: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{field}="):
        GpuRequest.of_meta({"gpu": {"memory": "auto", **meta}})


def test_a_job_that_carries_what_is_not_allowed_fails_and_says_why(stage: Stage) -> None:
    job = stage.queue.enqueue(sized_jobs.undecorated, meta={"gpu": {"memory": "auto"}})
    stage.burst()
    assert "default=None is not allowed" in stage.outcome(job)


# -- what a job asks for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "rq.worker.SimpleWorker"])
def test_a_job_asks_for_what_is_known_when_it_is_its_turn(stage: Stage, kind: str) -> None:
    job = sized_jobs.enhance.delay(6, 4)
    other = sized_jobs.enhance.delay(1000)
    learned(stage.broker, 2 * GIB, size=24)
    stage.burst(kind)
    assert job.return_value() == 2 * GIB + 256 * MIB
    assert other.return_value() == 5 * GIB + 512 * MIB, "in proportion it would be more than the largest card has"
    assert job.get_meta()["gpu"]["memory_bytes"] == 2 * GIB + 256 * MIB


@pytest.mark.parametrize("kind", ["worker_hooks.GpuWorker", "rq.worker.Worker"])
def test_the_first_run_takes_its_default(stage: Stage, kind: str) -> None:
    job = sized_jobs.enhance.delay(24)
    stage.burst(kind)
    assert job.return_value() == 4 * GIB


def test_a_request_written_by_hand_is_of_its_function(stage: Stage) -> None:
    learned(stage.broker, GIB, name="tests.rq.sized_jobs.undecorated")
    job = stage.queue.enqueue(sized_jobs.undecorated, meta={"gpu": {"memory": "auto", "default_bytes": 4 * GIB}})
    stage.burst()
    assert job.return_value() == GIB + 256 * MIB


def test_a_function_that_is_called_is_measured_there(stage: Stage) -> None:
    learned(stage.broker, 2 * GIB, size=24)
    assert sized_jobs.enhance(24) == 2 * GIB + 256 * MIB
    assert sized_jobs.enhance(2, height=12) == 2 * GIB + 256 * MIB
    with pytest.raises(InvalidRequest, match=r"^size_of="):
        sized_jobs.enhance(0)


# -- what is learned ---------------------------------------------------------------------------------------------------


def run_seen(stage: Stage, kind: str, *, peak: int, fails: bool = False, **options: Any) -> Job:
    """A job of which an agent sees this peak."""
    job = stage.queue.enqueue(
        sized_jobs.enhance_slowly, 24, fails=fails, **options,
        meta={"gpu": {"memory": "auto", "default_bytes": 4 * GIB, "size": 24}},
    )  # fmt: skip
    stage.worker(kind)
    seen = stage.hear()
    stage.broker.redis.hset(stage.broker.keys.lease(seen["lease"]), "peak_bytes", peak)  # as an agent's sample does
    stage.go()
    stage.event("released")
    return job


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_agent_saw_of_a_job_is_learned(stage: Stage, kind: str) -> None:
    run_seen(stage, kind, peak=3 * GIB)
    one = only(stage.broker)
    assert (one.function, one.bucket) == ("tests.rq.sized_jobs.enhance_slowly", bucket_of(24))
    assert (one.runs, one.peak_bytes, one.asked_bytes, one.oom) == (1, 3 * GIB, 4 * GIB, 0)


@pytest.mark.parametrize("kind", ["worker_hooks.GpuWorker", "rq.worker.Worker"])
def test_a_job_that_failed_teaches_nothing(stage: Stage, kind: str) -> None:
    job = run_seen(stage, kind, peak=3 * GIB, fails=True)
    assert "the photo is broken" in stage.outcome(job)
    assert stage.broker.sizes() == []


def test_a_job_that_rq_deletes_at_once_is_learned_too(stage: Stage) -> None:
    run_seen(stage, "worker_hooks.GpuWorker", peak=3 * GIB, result_ttl=0)
    assert only(stage.broker).runs == 1


def test_what_no_agent_saw_is_not_learned(stage: Stage) -> None:
    sized_jobs.enhance_slowly.delay(24)
    stage.worker()
    stage.hear()
    stage.go()
    stage.event("released")
    assert stage.broker.sizes() == []


def test_a_ledger_that_cannot_be_told_is_logged_and_the_job_goes_on(
    stage: Stage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, request = stage.broker.acquire("1GiB"), GpuRequest.checked("auto", default="1GiB")
    with Broker.from_url("redis://127.0.0.1:1/0") as nobody, caplog.at_level(logging.WARNING, "rq.worker"):
        sizing.learn(nobody, request, "f", lease, GIB)
        monkeypatch.setattr(sizing, "get_broker", lambda: nobody)
        with pytest.raises(sized_jobs.OutOfMemoryError), sizing.with_more(None, request, "f", lease):
            raise sized_jobs.OutOfMemoryError
    assert [record.message.partition(" of f ")[2].partition(":")[0] for record in caplog.records] == [
        "used is not learned"
    ] * 2


# -- out of memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_ran_out_of_memory_is_run_again_with_more_and_burns_no_retry(stage: Stage, kind: str) -> None:
    job = stage.queue.enqueue(
        sized_jobs.greedy, 4 * GIB, meta={"gpu": {"memory": "auto", "default_bytes": 2 * GIB}}, retry=Retry(max=1)
    )
    stage.burst(kind)
    assert [stage.hear()["memory"] for _ in range(3)] == [2 * GIB, 3 * GIB, 4.5 * GIB]
    job.refresh()
    assert (job.get_status(), job.return_value(), job.retries_left) == ("finished", 4.5 * GIB, 1)
    assert (job.meta["gpu"]["oom"], job.meta["gpu"]["too_little_bytes"]) == (2, 3 * GIB)
    assert "3.0 GiB" in job.meta["gpu"]["again_reason"]
    assert not stage.broker.leases()
    assert len(stage.queue.failed_job_registry) == 0
    assert (only(stage.broker).oom, only(stage.broker).floor_bytes) == (2, 4.5 * GIB)


def test_the_next_job_asks_for_more_at_once(stage: Stage) -> None:
    first = sized_jobs.greedy.delay(3 * GIB)
    second = sized_jobs.greedy.delay(3 * GIB)
    stage.burst()
    assert (first.return_value(), second.return_value()) == (3 * GIB, 3 * GIB)
    assert [stage.hear()["memory"] for _ in range(3)] == [2 * GIB, 3 * GIB, 3 * GIB]


@pytest.mark.parametrize("kind", ["worker_hooks.GpuWorker", "rq.worker.Worker"])
def test_where_no_card_has_more_it_fails_as_rqs_rules_say_with_its_own_reason(stage: Stage, kind: str) -> None:
    meta = {"gpu": {"memory": "auto", "default_bytes": 2 * GIB}}
    job = stage.queue.enqueue(sized_jobs.greedy, 100 * GIB, meta=meta, retry=Retry(max=1))
    stage.burst(kind)
    told = stage.outcome(job)
    assert "CUDA out of memory" in told
    assert "no card has more for it" in told
    largest = 5 * GIB + 512 * MIB
    asked = [2 * GIB, 3 * GIB, 4.5 * GIB, largest, largest]  # the last is its one retry
    assert [stage.hear()["memory"] for _ in range(stage.heard())] == asked
    job.refresh()
    assert (job.get_status(), job.retries_left, job.meta["gpu"]["oom"]) == ("failed", 0, 3)


def test_three_times_is_all(stage: Stage) -> None:
    stage.broker.update_config(memory_reserve_mb=0)
    job = stage.queue.enqueue(
        sized_jobs.greedy, 100 * GIB, meta={"gpu": {"memory": "auto", "default_bytes": 512 * MIB}}
    )
    stage.burst()
    assert "tried 4 times" in stage.outcome(job)
    assert [stage.hear()["memory"] // MIB for _ in range(stage.heard())] == [512, 768, 1152, 1728]


def test_a_job_of_a_fixed_size_fails_at_once(stage: Stage) -> None:
    job = sized_jobs.greedy_of_a_fixed_size.delay()
    stage.burst()
    assert "CUDA out of memory" in stage.outcome(job)
    assert stage.heard() == 1
    assert stage.broker.sizes() == []


def test_under_a_worker_that_cannot_run_it_again_it_fails_and_the_next_asks_for_more(stage: Stage) -> None:
    job = sized_jobs.greedy.delay(3 * GIB)
    stage.burst("rq.worker.SimpleWorker")
    told = stage.outcome(job)
    assert "CUDA out of memory" in told
    assert "it asks for 3.0 GiB now" in told
    assert only(stage.broker).floor_bytes == 3 * GIB


def test_a_plain_job_that_calls_such_a_function_is_not_repeated_for_it(stage: Stage) -> None:
    job = stage.queue.enqueue(sized_jobs.calls_greedy, 3 * GIB)
    stage.burst("rq.worker.Worker")
    assert '2.0 GiB of memory="auto" were too little' in stage.outcome(job)
    assert stage.heard() == 1
    assert only(stage.broker).floor_bytes == 3 * GIB


def test_a_direct_call_raises_what_it_raised_and_the_next_asks_for_more(stage: Stage) -> None:
    with pytest.raises(sized_jobs.OutOfMemoryError) as raised:
        sized_jobs.greedy(3 * GIB)
    assert "2.0 GiB" in raised.value.__notes__[0]
    assert sized_jobs.greedy(3 * GIB) == 3 * GIB


# -- where not every card is as large ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["worker_hooks.GpuWorker", "rq.worker.Worker"])
def test_what_is_but_a_guess_is_cut_to_the_cards_that_a_job_may_have(stage: Stage, cards: Cards, kind: str) -> None:
    cards("GPU-large", host="h2", total=24 * GIB, capability="9.0")
    cards("GPU-a", capability="8.6", told=HostReport(labels="rack=a"))
    learned(stage.broker, 5 * GIB + 400 * MIB, name="tests.rq.sized_jobs.in_rack")
    job = sized_jobs.in_rack.delay()
    stage.burst(kind)
    assert job.return_value() == 5 * GIB + 512 * MIB


def test_what_is_known_to_be_needed_and_fits_no_card_of_its_host_is_impossible(stage: Stage, cards: Cards) -> None:
    cards("GPU-large", host="h2", total=24 * GIB)
    meta = {"gpu": {"memory": "auto", "default_bytes": 2 * GIB, "too_little_bytes": 5632 * MIB}}
    job = stage.queue.enqueue(sized_jobs.greedy, GIB, meta=meta)
    stage.burst("rq.worker.Worker")
    told = stage.outcome(job)
    assert "8.2 GiB can never fit" in told
    assert "its last attempt ran out of memory with 5.5 GiB" in told
    assert stage.heard() == 0


def test_a_guess_beyond_its_host_is_cut_to_it(stage: Stage, cards: Cards) -> None:
    cards("GPU-large", host="h2", total=24 * GIB)
    learned(stage.broker, 5 * GIB + 400 * MIB, size=24)
    job = sized_jobs.enhance.delay(24)
    stage.burst("rq.worker.Worker")
    assert job.return_value() == 5 * GIB + 512 * MIB


def test_a_job_that_ran_out_of_all_that_its_class_has_does_not_wait_for_other_cards(stage: Stage, cards: Cards) -> None:
    cards("GPU-large", host="h2", total=24 * GIB, capability="9.0")
    cards("GPU-a", capability="8.6", told=HostReport(labels="rack=a"))
    meta = {"gpu": {"memory": "auto", "default_bytes": 4 * GIB, "labels": {"rack": "a"}}}
    job = stage.queue.enqueue(sized_jobs.greedy, 100 * GIB, meta=meta)
    stage.burst()
    assert '5.5 GiB of memory="auto" were too little (no card has more for it' in stage.outcome(job)
    assert [stage.hear()["memory"] for _ in range(stage.heard())] == [4 * GIB, 5 * GIB + 512 * MIB]
