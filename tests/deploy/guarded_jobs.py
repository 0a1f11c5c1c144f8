"""Jobs for workers under users with few rights."""

from __future__ import annotations

import time

from rq import get_current_job

from worker_hooks import current_lease, gpu_job, throttle


@gpu_job("photos", memory="1GiB")
def borrow(number: int) -> int:
    """Looks at its lease and at its card, as a job does."""
    lease = current_lease()
    assert lease is not None
    assert throttle().speed > 0
    assert not lease.lost
    return 2 * number


@gpu_job("photos", memory="1GiB")
def fail() -> None:
    """Never ends well."""
    raise ValueError("on purpose")


@gpu_job("photos", memory="1GiB")
def sleep() -> None:
    """Until it is stopped."""
    job = get_current_job()
    assert job is not None
    job.meta["here"] = True
    job.save_meta()
    time.sleep(600)
