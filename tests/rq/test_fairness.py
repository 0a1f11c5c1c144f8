"""A big job in a stream of small ones: they may pass it so many times, then the card gathers for it."""

from __future__ import annotations

import time

import pytest
from rq import Queue
from rq.job import Job

from broker.publish import Publisher
from broker.units import GIB
from tests.conftest import report
from tests.rq import jobs
from tests.rq.conftest import PATIENCE, Stage
from worker_hooks.request import GpuRequest

BYPASS_MAX = 3
CREWS = {"one queue": (("photos",), "photos"), "a queue of its own": (("photos", "films"), "films")}


def started(job: Job) -> bool:
    """Wait until a worker started or parked it."""
    ends = time.monotonic() + PATIENCE
    while (status := job.get_status()) not in ("started", "scheduled"):
        assert time.monotonic() < ends, f"the job is {status}"
    return status == "started"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("queues", "of_big"), CREWS.values(), ids=CREWS)
def test_a_big_job_starts_after_so_many_small_ones_have_passed_it(
    stage: Stage, queues: tuple[str, ...], of_big: str
) -> None:
    stage.broker.update_config(bypass_max=BYPASS_MAX)
    Publisher(stage.broker, "h2").publish([report("GPU-b", total=24 * GIB)], 600_000)
    for _ in range(3):
        stage.worker(queues=queues, GPUBROKER_HOST="h2")
    running = jobs.linger.delay()
    stage.hear()
    wish = {"gpu": GpuRequest.checked("20GiB", ttl=3).as_meta()}
    big = Queue(of_big, connection=stage.redis).enqueue(jobs.plain, meta=wish)
    stage.parked(big)

    passed, small = 0, jobs.linger.delay()
    while started(small):  # each begins before the last one ends, so that the card is never free
        stage.hear()
        stage.go()
        stage.outcome(running)
        running, small, passed = small, jobs.linger.delay(), passed + 1
        assert passed <= BYPASS_MAX, "it was passed once too often"
    assert passed == BYPASS_MAX
    assert [one.job_id for one in stage.broker.waiters()] == [big.id, small.id]

    stage.go()
    stage.outcome(running)
    assert "pid" in stage.outcome(big)
    stage.go()
    assert stage.outcome(small) == "done"
    granted = [event.fields["job_id"] for event in stage.broker.events() if event.kind == "granted"]
    assert granted[-2:] == [big.id, small.id]
