"""What the RQ jobs of a soak do: write down each run, hold the job's lock and "use" their bytes of a card's counter.

All of it stands in the database of the ledger and of RQ, so that the replication stream puts it in order.
"""

from __future__ import annotations

import os
import time

from redis import Redis
from rq import get_current_job

from broker.errors import LeaseLost
from broker.process import began
from worker_hooks import current_lease

#: The stream of what runs say; who is in the midst of a job (hash); who uses how much of a card (hash, by its UUID).
RUNS, LOCKS, USE = "soak:runs", "soak:locks", "soak:use:"
#: The bytes that each card has for jobs (hash, by UUID).
CAPACITY = "soak:capacity"
Told = dict[str, str | int]


def me() -> str:
    """This process, told from a later one of the same pid."""
    return f"{os.getpid()} {began(os.getpid())}"


def alive(process: str) -> bool:
    """Whether a process that was written down as ``me()`` still holds memory."""
    pid, _, start = process.partition(" ")
    return began(int(pid)) == start


def work(seconds: float) -> None:
    """One run: sleep for so long, and leave traces from which a second run at the same time can be told."""
    job, lease = get_current_job(), current_lease()
    assert job is not None
    told: Told = {"job": job.id, "process": me(), "worker": job.worker_name or "", "lease": "", "bytes": 0}
    uuids: tuple[str, ...] = ()
    if lease is not None:
        uuids = lease.gpu_uuids
        told |= {"lease": lease.id, "token": lease.token, "bytes": lease.memory_bytes}
    with Redis.from_url(os.environ["GPUBROKER_REDIS_URL"], decode_responses=True) as redis:
        _begin(redis, told, uuids)
        end = {"kind": "raised", "why": ""}
        try:
            time.sleep(seconds)
            end["kind"] = "ended"
        except BaseException as error:
            end["why"] = repr(error)
            raise
        finally:
            try:
                _end(redis, told | end, uuids)
            except LeaseLost as error:  # it is heard in the midst of any call
                _end(redis, told | {"kind": "raised", "why": repr(error)}, uuids)
                raise


def _begin(redis: Redis, told: Told, uuids: tuple[str, ...]) -> None:
    """Write the start down, then see who else is there: of two that start at once, one sees the other."""
    job, process = str(told["job"]), str(told["process"])
    with redis.pipeline() as pipeline:
        pipeline.hget(LOCKS, job)
        pipeline.hgetall(CAPACITY)
        for uuid in uuids:
            pipeline.hset(USE + uuid, process, told["bytes"])
            pipeline.hgetall(USE + uuid)
        pipeline.hset(LOCKS, job, process)
        pipeline.xadd(RUNS, {"kind": "started", **told})
        before, capacity, *use = pipeline.execute()
    # A process that was killed runs nothing and uses nothing: only the living count.
    if before is not None and before != process and alive(before):
        _complain(redis, told, f"{job} runs in process {process} while it runs in {before}")
    for uuid, users in zip(uuids, use[1::2], strict=False):
        living = {who: int(size) for who, size in users.items() if alive(who)}
        if sum(living.values()) > int(capacity[uuid]):
            _complain(redis, told, f"{uuid} has {capacity[uuid]} bytes, in use are {living}")


def _end(redis: Redis, told: Told, uuids: tuple[str, ...]) -> None:
    with redis.pipeline() as pipeline:
        for uuid in uuids:
            pipeline.hdel(USE + uuid, str(told["process"]))
        pipeline.hdel(LOCKS, str(told["job"]))
        pipeline.xadd(RUNS, told)
        pipeline.execute()


def _complain(redis: Redis, told: Told, text: str) -> None:
    redis.xadd(RUNS, {**told, "kind": "wrong", "text": text})
