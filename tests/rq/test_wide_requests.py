"""Jobs that ask for more than bytes of one card."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from broker.units import GIB
from broker.values import HostReport
from tests.rq import jobs
from tests.rq.conftest import Stage


@pytest.mark.parametrize("worker", ["worker_hooks.GpuWorker", "rq.worker.Worker"])
def test_a_job_gets_the_first_alternative_there_is_room_for(
    stage: Stage, cards: Callable[..., None], worker: str
) -> None:
    cards("GPU-a", "GPU-b", told=HostReport(cpus_milli=1000, labels="rack=a"))
    job = jobs.wide.delay()
    stage.burst(worker)
    seen = job.return_value()
    assert sorted(str(seen["device"]).split(",")) == ["GPU-a", "GPU-b"]
    assert seen["memory"] == str(2 * GIB)
    job.refresh()
    assert len(job.meta["gpu"]["gpu_uuids"]) == 2
    (granted,) = [event for event in stage.broker.events() if event.kind == "granted"]
    assert granted.fields["memory_bytes"] == str(2 * GIB)
    assert stage.broker.leases() == []


def test_a_job_whose_labels_nobody_has_waits(stage: Stage) -> None:
    jobs.wide.delay()
    stage.worker("worker_hooks.GpuWorker", "--burst")
    assert stage.event("queued").fields["asks"] == f"{20 * GIB},2x{2 * GIB}"
