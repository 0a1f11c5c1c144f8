"""The jobs that the tests run: they tell what they see, and wait to be told to go on."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import time

from redis import Redis
from rq import Queue, get_current_job
from rq.job import Job

from broker import Lease, get_broker
from worker_hooks import current_lease, gpu_job, pace, run_again
from worker_hooks.recovery import recover_abandoned

# Whether the lease's environment stood when RQ imported this module.
LEASE_AT_IMPORT = os.environ.get("GPUBROKER_LEASE_ID", "")


def say(**facts: object) -> None:
    with Redis.from_url(os.environ["GPUBROKER_REDIS_URL"]) as redis:
        redis.rpush("told", json.dumps(facts))


def wait_for_go() -> None:
    # Without its own, redis-py's patience is five seconds, and a job that waits longer would fail by itself.
    with Redis.from_url(os.environ["GPUBROKER_REDIS_URL"], socket_timeout=70) as redis:
        redis.blpop(["go"], timeout=60)


def _facts() -> dict[str, object]:
    lease = current_lease()
    return {
        "pid": os.getpid(),
        "lease": lease and lease.id,
        "token": lease and lease.token,
        "at_import": LEASE_AT_IMPORT,
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "memory": os.environ.get("GPUBROKER_MEMORY_BYTES"),
    }


@gpu_job("photos", memory="3GiB")
def caps() -> dict[str, object]:
    """What frameworks would find here."""
    lease = current_lease()
    names = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "CUPY_GPU_MEMORY_LIMIT", "TF_FORCE_GPU_ALLOW_GROWTH")
    return {name: os.environ.get(name) for name in names} | {"totals": lease and list(lease.memory_total_bytes)}


def noted(lease: Lease) -> None:
    say(noted=lease.id, lost=lease.lost)


def plain() -> dict[str, object]:
    return _facts()


@gpu_job("photos", memory="4GiB")
def look() -> dict[str, object]:
    return _facts()


@gpu_job("photos", memory="4GiB", lease_ttl=3)
def linger() -> str:
    say(**_facts())
    wait_for_go()
    return "done"


@gpu_job("photos", memory="4GiB", lease_ttl=3)
def sleep_long() -> str:
    say(**_facts())
    time.sleep(60)
    return "done"


@gpu_job("photos", memory="4GiB", lease_ttl=3, on_lease_lost="kill")
def rather_die() -> None:
    say(**_facts())
    wait_for_go()


@gpu_job("photos", memory="4GiB", lease_ttl=3, on_lease_lost=noted)
def take_note() -> str:
    say(**_facts())
    wait_for_go()
    return "saved what there was"


@gpu_job("photos", memory="4GiB", lease_ttl=3, on_lease_lost="tests.rq.jobs.nowhere")
def nobody_to_tell() -> None:
    say(ran=True)


@gpu_job("photos", memory="4GiB")
def fail() -> None:
    raise ValueError("the photo is broken")


@gpu_job("photos", memory="4GiB", timeout=1)
def overrun() -> None:
    time.sleep(60)


@gpu_job("photos", memory="4GiB", lease_ttl=3)
def hold_the_gil() -> bool:
    # PyDLL keeps the GIL during the call, as a long C call of an extension does.
    ctypes.PyDLL(None).sleep(5)
    lease = current_lease()
    return lease is not None and not lease.lost


@gpu_job("photos", memory="100GiB")
def impossible() -> None:
    say(ran=True)


@gpu_job("photos", memory="4GiB", wait=1)
def impatient() -> None:
    say(ran=True)


@gpu_job("photos", memory="4GiB")
def calls_another() -> tuple[object, object]:
    lease = current_lease()
    return (lease and lease.id), look()["lease"]


@gpu_job("photos", memory="4GiB")
async def coroutine() -> object:
    await asyncio.sleep(0)
    return _facts()["lease"]


@gpu_job("photos", memory=["20GiB", "2x2GiB"], cpus=0.5, labels={"rack": "a"})
def wide() -> dict[str, object]:
    return _facts()


def tell(job: object, connection: object, *result: object) -> None:
    """A callback."""
    say(called="back")


def recover_meanwhile(job: Job, connection: Redis, *error: object) -> None:
    """A callback, in the midst of RQ's clean-up: others look for abandoned jobs too."""
    queue = Queue(job.origin, connection=connection)
    say(found=recover_abandoned(queue, get_broker()))


@gpu_job("photos", memory="1GiB")
def succeed(value: object = "done") -> object:
    return value


@gpu_job("photos", memory="1GiB")
def fail_once(path: str) -> str:
    try:
        with open(path, "x"):
            pass
    except FileExistsError:
        return "done"
    raise ValueError("the first time")


@gpu_job("photos", memory="1GiB")
def return_retry(path: str) -> object:
    from rq import Retry

    try:
        with open(path, "x"):
            return Retry(max=3)
    except FileExistsError:
        return "done"


@gpu_job("photos", memory="4GiB", reschedule=1)
def come_again() -> str:
    return "done"


@gpu_job("photos", memory="4GiB")
def note_and_wait() -> str:
    job = get_current_job()
    assert job is not None
    job.meta["mine"] = 1
    job.save_meta()  # type: ignore[no-untyped-call]
    time.sleep(1.1)
    say(**_facts())
    wait_for_go()
    return "done"


@gpu_job("photos", memory="4GiB", lease_ttl=3)
def move_once() -> str:
    """Asks once to be run again."""
    job = get_current_job()
    assert job is not None
    say(**_facts(), again=job.meta["gpu"].get("again", 0))
    try:
        if not job.meta["gpu"].get("again"):
            run_again("this card is hot")
    except Exception:  # noqa: BLE001 - the very thing that must not help here
        say(swallowed=True)
    return "moved"


@gpu_job("photos", memory="4GiB", lease_ttl=3, on_lease_lost="again")
def movable() -> str:
    say(**_facts())
    wait_for_go()
    return "done"


@gpu_job("photos", memory="4GiB")
def move_often(times: int) -> None:
    job = get_current_job()
    assert job is not None
    if job.meta["gpu"].get("again", 0) < times:
        run_again()


def move_then_fail() -> None:
    job = get_current_job()
    assert job is not None
    say(ran=True)
    if not job.meta["gpu"].get("again"):
        run_again("once")
    raise ValueError("and now it fails")


@gpu_job("photos", memory="4GiB")
def impatient_with_heat() -> int:
    say(**_facts())
    wait_for_go()
    return pace(8, patience=0.2)
