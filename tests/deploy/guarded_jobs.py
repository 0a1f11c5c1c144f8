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


@gpu_job("photos", memory="4GiB", lease_ttl=3)
def hold(seconds: float) -> int | None:
    """Keeps most of a card for a while; says first that it is at work, and how often it was begun."""
    job = get_current_job()
    assert job is not None
    job.meta["begun"] = int(job.meta.get("begun", 0)) + 1
    job.save_meta()
    # The first attempt of one that is told to wait for ever is killed; the next one ends.
    time.sleep(600 if seconds < 0 and job.meta["begun"] == 1 else max(seconds, 0))
    return int(job.meta["begun"])


@gpu_job("photos", memory="auto", default="1GiB")
def enhance() -> int:
    """Asks for what was learned."""
    lease = current_lease()
    assert lease is not None
    return lease.memory_bytes
